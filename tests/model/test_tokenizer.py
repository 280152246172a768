"""The tokenizer against transformers, and streaming against whole decoding, on real and on freshly trained vocabularies."""

# ruff: noqa: E501, PT018 (tables of cases, and facts that belong together)

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lanewise.errors import LoadError, TemplateError
from lanewise.tokenizer import Tokenizer
from shared import needs_shared, shared

tokenizers = pytest.importorskip("tokenizers")

TEXTS = [
    "", " ", "  two  spaces ", "Once upon a time, there was a cat.", "\n\tline\r\n", "今天天气真不错！", "é e\u0301 ß ﬁ",
    "👩‍👩‍👧‍👦 🇩🇪 🙂", "<s>spelled</s> out", "<|im_start|>user\nhi<|im_end|>", "a\x00b\ufffdc\u2581d", "1234567 + 89 == 0.5e-3",
]  # fmt: skip
REAL = [("models", "stories260K"), ("models", "babyllama-105"), ("tokenizers", "minimind")]
KINDS = ["byte_level", "fallback", "metaspace", "wordpiece", "bpe_suffix", "none"]


def write_trained(folder: Path, kind: str) -> None:
    """A tiny tokenizer of each form that a decoder can have."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    corpus = [
        "the cat sat on the mat",
        "Once upon a time there was a little cat",
        "今天天气真不错",
        "it was tired, it was.",
    ] * 4
    special = ["<unk>", "<s>", "</s>"]
    options: dict[str, Any] = {"vocab_size": 400, "special_tokens": special, "show_progress": False}
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    if kind == "byte_level":
        made = tokenizers.Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    elif kind == "fallback":
        made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        options["special_tokens"] = special + [f"<0x{byte:02X}>" for byte in range(256)]
    elif kind == "metaspace":
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
    elif kind == "wordpiece":
        made = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.decoder = decoders.WordPiece()
    elif kind == "bpe_suffix":
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.decoder = decoders.BPEDecoder(suffix="</w>")
        options["end_of_word_suffix"] = "</w>"
    trainer = (trainers.WordPieceTrainer if kind == "wordpiece" else trainers.BpeTrainer)(**options)
    made.train_from_iterator(corpus, trainer)
    if kind == "fallback":  # byte tokens are ordinary ones, not special
        state = json.loads(made.to_str())
        state["added_tokens"] = state["added_tokens"][:3]
        made = tokenizers.Tokenizer.from_str(json.dumps(state))
    made.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@cache
def trained(kind: str) -> Tokenizer:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_trained(Path(folder), kind)
        return Tokenizer(Path(folder))


@pytest.mark.parametrize("where", REAL, ids=lambda where: where[-1])
@needs_shared
def test_equals_transformers_on_real_tokenizers(where: tuple[str, str]) -> None:
    transformers = pytest.importorskip("transformers")
    folder = shared(*where)
    own, reference = Tokenizer(folder), transformers.AutoTokenizer.from_pretrained(str(folder))
    for text in TEXTS:
        for special in (True, False):
            ids = own.encode(text, add_special_tokens=special)
            assert ids == reference.encode(text, add_special_tokens=special), text
            for skip in (True, False):
                assert own.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip), text
    assert own.bos_id == reference.bos_token_id and own.eos_id == reference.eos_token_id
    assert own.vocabulary == len(reference)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_transformers_on_trained_tokenizers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_trained(tmp_path, kind)
    own, reference = Tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for text in TEXTS:
        ids = own.encode(text)
        assert ids == reference.encode(text)
        assert own.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert (own.bos_id, own.eos_id) == (1, 2) == (reference.bos_token_id, reference.eos_token_id)


@pytest.mark.parametrize(("add_bos", "add_eos"), [(True, False), (True, True), (False, True), (False, False)])
def test_tokenizer_json_alone_decides_on_bos_and_eos(add_bos: bool, add_eos: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_trained(tmp_path, "byte_level")
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_bos_token": add_bos, "add_eos_token": add_eos}))
    own, reference = Tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert own.encode("the cat") == reference.encode("the cat")


def check_streaming(tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
    decoder = tokenizer.decoder(skip)
    pieces = [decoder.push(i) for i in ids]
    last = decoder.flush()
    assert "".join(pieces) + last == tokenizer.decode(ids, skip)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_streaming_equals_whole_on_any_ids(kind: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = trained(kind)
    check_streaming(tokenizer, data.draw(st.lists(st.integers(0, tokenizer.vocabulary + 1), max_size=24)), skip)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(text=st.text(max_size=40))
@example(text="今天🙂 天气\n\n  ok ")
def test_streaming_equals_whole_on_texts(kind: str, text: str) -> None:
    tokenizer = trained(kind)
    check_streaming(tokenizer, tokenizer.encode(text), True)


@pytest.mark.parametrize("where", REAL, ids=lambda where: where[-1])
@needs_shared
def test_streaming_equals_whole_on_real_tokenizers(where: tuple[str, str]) -> None:
    tokenizer = Tokenizer(shared(*where))

    @settings(max_examples=150, deadline=None)
    @given(ids=st.lists(st.integers(0, tokenizer.vocabulary), max_size=40), skip=st.booleans())
    def check(ids: list[int], skip: bool) -> None:
        check_streaming(tokenizer, ids, skip)

    check()
    for text in TEXTS:
        check_streaming(tokenizer, tokenizer.encode(text), True)


@pytest.mark.parametrize("kind", ["byte_level", "fallback"])
def test_pieces_hold_whole_characters(kind: str) -> None:
    tokenizer = trained(kind)
    decoder = tokenizer.decoder()
    pieces = [decoder.push(i) for i in tokenizer.encode("鱼🙂 the 鱼 cat")]
    assert all("\ufffd" not in piece for piece in pieces) and "".join(pieces) + decoder.flush() == "鱼🙂 the 鱼 cat"
    assert sum(map(bool, pieces)) > 2


def test_byte_level_streams_without_delay() -> None:
    tokenizer = trained("byte_level")
    decoder = tokenizer.decoder()
    ids = tokenizer.encode("🙂🙂")
    assert [decoder.push(i) for i in ids] == ["", "", "", "🙂"] * 2
    unfinished = tokenizer.decoder()
    assert unfinished.extend(ids[:2]) == "" and unfinished.flush() == "\ufffd"


def test_truncation_and_padding_of_the_file_are_off(tmp_path: Path) -> None:
    write_trained(tmp_path, "byte_level")
    made = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    made.enable_truncation(4)
    made.enable_padding(length=64, pad_id=0)
    made.save(str(tmp_path / "tokenizer.json"))
    text = "the cat sat on the mat, it was tired"
    assert Tokenizer(tmp_path).encode(text) == trained("byte_level").encode(text)


def test_odd_arguments() -> None:
    tokenizer = trained("byte_level")
    assert (
        tokenizer.decode([10**6, 10**9]) == "" and tokenizer.token(10**6) is None and tokenizer.token_id("no") is None
    )
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a?b")
    with pytest.raises(TypeError, match="string"):
        tokenizer.encode(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(TemplateError, match="no chat template"):
        tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])


BROKEN = {
    "truncated": b'{"version": "1.0", "model": {"type": "BP',
    "empty": b"",
    "not json": b"vocab",
    "not utf-8": b'{"version": "\xff"}',
    "deep": b'{"a":' * 100_000,
    "deep lists": b"[" * 100_000,
    "no model": b'{"version": "1.0"}',
    "an array": b"[]",
    "negative id": b'{"version":"1.0","model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}',
    "huge id": b'{"version":"1.0","model":{"type":"BPE","vocab":{"a":1099511627776},"merges":[]}}',
    "unknown merge": b'{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[["a","b"]]}}',
    "bad regex": b'{"version":"1.0","pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated",'
    b'"invert":false},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}',
    "nested sequence": b'{"version":"1.0","decoder":' + b'{"type":"Sequence","decoders":[' * 10_000,
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_tokenizer_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(BROKEN[name])
    with pytest.raises(LoadError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)


def test_missing_and_huge_files(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="missing"):
        Tokenizer(tmp_path)
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(1 << 30)  # sparse
    with pytest.raises(LoadError, match="over the limit"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("config", "field"),
    [({"bos_token": 3}, "bos_token"), ({"chat_template": 5}, "chat_template"),
     ({"chat_template": [{"name": "default"}]}, "chat_template")],
)  # fmt: skip
def test_broken_tokenizer_config(config: dict[str, Any], field: str, tmp_path: Path) -> None:
    write_trained(tmp_path, "byte_level")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError) as caught:
        Tokenizer(tmp_path)
    assert caught.value.field == field


def test_a_tokenizer_without_a_way_out(tmp_path: Path) -> None:
    """Found by the fuzzer: the library meets a character that it has no token for only when it encodes."""
    write_trained(tmp_path, "wordpiece")
    made = json.loads((tmp_path / "tokenizer.json").read_text())
    made["model"]["unk_token"] = "[no such token]"
    (tmp_path / "tokenizer.json").write_text(json.dumps(made))
    tokenizer = Tokenizer(tmp_path)
    with pytest.raises(LoadError, match="cannot encode the text"):
        tokenizer.encode("\U0001f642")
