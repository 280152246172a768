"""The tokenizer inside a GGUF file: the ids of tokenizer.json, of sentencepiece and of llama.cpp."""

from __future__ import annotations

import functools
import importlib
import io
import struct
from pathlib import Path
from typing import Any

import pytest
from gguf_vocabularies import HARD, from_tokenizer_json, texts, vocabulary_file

from lanewise.errors import LoadError
from lanewise.model.gguf import open_gguf
from lanewise.model.gguf_pre import PRE
from lanewise.model.gguf_tokenizer import read_tokenizer
from lanewise.model.gguf_vocab import end_ids, read_vocabulary
from lanewise.model.source import open_source
from lanewise.tokenizer import Tokenizer
from shared import needs_shared, shared
from spm_oracle import tokenize


def opened(path: Path) -> Tokenizer:
    with open_source(path) as source:
        found = source.tokenizer()
    assert found is not None
    return found


@functools.cache
def prose() -> str:
    names = ("tinyshakespeare.txt", "chinese_classics.txt")
    return "".join(shared("text", name).read_text("utf-8")[:60_000] for name in names)


# ---- the same model as a folder ----


@needs_shared
@pytest.mark.parametrize(("name", "kind"), [("stories260K", "q4_0"), ("babyllama-105", "f16")])
def test_ids_equal_those_of_tokenizer_json(name: str, kind: str) -> None:
    ours, theirs = opened(shared("models", name, f"{name}-{kind}.gguf")), Tokenizer(shared("models", name))
    for text in [*texts(2000, 1, ["▁the", "ing", "<s>", "</s>", "<unk>"], prose()), "<s> a</s>b", "a<unk> b <s>"]:
        for special in (True, False):
            assert ours.encode(text, special) == theirs.encode(text, special), text
        ids = ours.encode(text)
        assert ours.decode(ids) == theirs.decode(ids)
        assert ours.decoder().extend(ids) == theirs.decoder().extend(ids)
    assert (ours.bos_id, ours.eos_id, ours.special_ids) == (theirs.bos_id, theirs.eos_id, theirs.special_ids)
    assert (ours.special_tokens, ours.vocabulary) == (theirs.special_tokens, theirs.vocabulary)


@needs_shared
def test_byte_level_equals_tokenizer_json(tmp_path: Path) -> None:
    folder = shared("tokenizers", "minimind")
    file = from_tokenizer_json(tmp_path / "m.gguf", folder / "tokenizer.json", "gpt-2")
    ours, theirs = opened(file), Tokenizer(folder)
    for text in texts(1500, 2, ["<|im_start|>", "user", "<|im_end|>", "\n"], prose()):
        assert ours.encode(text) == theirs.encode(text), text
        ids = ours.encode(text)
        assert ours.decode(ids, False) == theirs.decode(ids, False)
        assert ours.decoder().extend(ids) == theirs.decoder().extend(ids)
    assert ours.special_ids == theirs.special_ids


# ---- llama.cpp's rules ----


@needs_shared
def test_sentencepiece_merges_as_llama_cpp_does() -> None:
    with open_gguf(shared("models", "stories260K", "stories260K-f32.gguf")) as file:
        vocabulary, parts = read_vocabulary(file), read_tokenizer(file)
    assert vocabulary is not None
    assert parts is not None
    scores, pieces = vocabulary.scores.tolist(), vocabulary.tokens[259:]
    for text in texts(3000, 3, pieces, prose()):
        if text and "<unk>" not in text and "</s>" not in text:
            expected = tokenize(f" {text}".replace(" ", "▁"), vocabulary.ids, scores)
            assert parts[0].encode(text, add_special_tokens=False).ids == expected, text


def test_overlapping_merges_take_the_leftmost(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "aa", "aaa", "aaaa", "ba", "ab"]
    scores = [0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -1.0, -3.0, -4.0, -2.0, -2.5]
    kinds = [2, 3, 3] + [1] * 8
    file = vocabulary_file(tmp_path / "m.gguf", "llama", tokens, scores=scores, token_type=kinds, add_bos_token=False)
    ids, ours = {text: i for i, text in enumerate(tokens)}, opened(file)
    for n in range(1, 400):
        text = "".join("aab"[(n * k * k + k) // 7 % 3] for k in range(n % 23 + 1))
        assert ours.encode(text) == tokenize(f"▁{text}", ids, scores), text


def test_flags(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b"]
    common: dict[str, Any] = {"scores": [0.0, 0.0, 0.0, -1.0, -2.0, -3.0], "token_type": [2, 3, 3, 1, 1, 1]}
    for given, text, ids in (
        ({}, "a b", [1, 3, 4, 3, 5]), ({"add_bos_token": False}, "a", [3, 4]), ({"bos_token_id": 2}, "a", [2, 3, 4]),
        ({"add_eos_token": True}, "a", [1, 3, 4, 2]), ({"add_space_prefix": False}, "a b", [1, 4, 3, 5]),
        ({"remove_extra_whitespaces": True}, "  a  b ", [1, 3, 4, 3, 5]), ({}, "", [1]), ({}, "cc", [1, 3, 0]),
        ({}, " a", [1, 3, 3, 4]), ({}, "a</s>b", [1, 3, 4, 2, 3, 5]),
    ):  # fmt: skip
        assert opened(vocabulary_file(tmp_path / "m.gguf", "llama", tokens, **common, **given)).encode(text) == ids


def test_what_ends_a_generation(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", "a", "<|im_end|>", "<|eot_id|>", "b", "<|fim_pad|>"]
    file = vocabulary_file(tmp_path / "m.gguf", "llama", tokens, eos_token_id=4, eot_token_id=6)
    with open_gguf(file) as held:
        assert end_ids(held) == (4, 6, 2, 5, 7)
    with open_source(file) as source:
        assert source.generation.eos_ids == (4, 6, 2, 5, 7)
        assert source.generation.bos_id is None
    assert opened(file).encode("a<|im_end|>", False)[-1] == 4
    harmony = ["<unk>", "<s>", "</s>", "a", "<|end|>", "<|return|>", "<|call|>"]
    with open_gguf(vocabulary_file(tmp_path / "h.gguf", "llama", harmony)) as held:
        assert end_ids(held) == (2, 5, 6)


def test_chat_template(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}"
    tokens = ["<unk>", "<s>", "</s>", "a"]
    ours = opened(vocabulary_file(tmp_path / "m.gguf", "llama", tokens, chat_template=template))
    assert ours.has_chat_template
    assert ours.apply_chat_template([{"role": "user", "content": "a"}]) == "<s>a</s>"
    assert not opened(vocabulary_file(tmp_path / "n.gguf", "llama", tokens)).has_chat_template


def test_wordpiece(tmp_path: Path) -> None:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokens += ["▁un", "aff", "able", "▁the", "▁,", "▁!", "▁cafe", "s", "▁中", "▁文", "▁x"]
    ends = {"bos_token_id": 2, "seperator_token_id": 3, "unknown_token_id": 1}
    kinds = [3, 3, 3, 3] + [1] * 11
    ours = opened(vocabulary_file(tmp_path / "m.gguf", "bert", tokens, token_type=kinds, **ends))
    for text, ids in {
        "Unaffable, the Cafés!": [4, 5, 6, 8, 7, 10, 11, 9], "中文x": [12, 13, 14], "xyz the": [1, 7], "": [],
        "the [SEP] the": [7, 3, 7], "un\u0301aff": [4, 5], "the\u200b\tthe\n": [7, 7],
    }.items():  # fmt: skip
        assert ours.encode(text) == [2, *ids, 3], text
    assert ours.decode(ours.encode("unaffable the")) == "unaffable the"


def trained(kind: str, folder: Path, **given: Any) -> Any:
    """(a sentencepiece model of 400 tokens, its bytes)."""
    library = pytest.importorskip("sentencepiece")
    held = io.BytesIO()
    lines = [line for line in prose().splitlines() if line.strip()]
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(lines[:1500]), model_writer=held, vocab_size=1200, model_type=kind, minloglevel=2,
        character_coverage=0.98, num_threads=1, **given,
    )  # fmt: skip
    return library.SentencePieceProcessor(model_proto=held.getvalue()), held.getvalue()


def as_file(model: Any, proto: bytes, path: Path, kind: str, **given: Any) -> Path:
    n = model.vocab_size()
    kinds = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in range(n)]
    tokens, scores = [model.id_to_piece(i) for i in range(n)], [model.get_score(i) for i in range(n)]
    ids = {"bos_token_id": model.bos_id(), "eos_token_id": model.eos_id(), "unknown_token_id": model.unk_id()}
    return vocabulary_file(path, kind, tokens, scores=scores, token_type=kinds, **ids, **given)


def charsmap(proto: bytes) -> bytes:
    """normalizer_spec.precompiled_charsmap of a sentencepiece model: field 2 of field 3."""

    def fields(data: bytes) -> dict[int, bytes]:
        found, at = {}, 0

        def number() -> int:
            nonlocal at
            value, shift = 0, 0
            while True:
                value |= (data[at] & 127) << shift
                at += 1
                shift += 7
                if data[at - 1] < 128:
                    return value

        while at < len(data):
            tag = number()
            if tag & 7 == 2:
                size = number()
                found[tag >> 3] = data[at : at + size]
                at += size
            elif tag & 7 == 0:
                number()
            else:
                at += 4 if tag & 7 == 5 else 8
        return found

    return fields(fields(proto)[3]).get(2, b"")


@needs_shared
def test_sentencepiece_bpe_equals_the_library(tmp_path: Path) -> None:
    model, proto = trained("bpe", tmp_path, byte_fallback=True, normalization_rule_name="identity",
                           remove_extra_whitespaces=False)  # fmt: skip
    ours = opened(as_file(model, proto, tmp_path / "m.gguf", "llama"))
    pieces = [model.id_to_piece(i) for i in range(300, 1200)]
    for text in texts(1500, 4, pieces, prose()):
        if not any(mark in text for mark in ("<unk>", "</s>", "<s>", "▁", "\0", "<0x")):
            assert ours.encode(text, False) == model.encode(text), text


@needs_shared
def test_unigram_equals_the_library(tmp_path: Path) -> None:
    model, proto = trained("unigram", tmp_path, normalization_rule_name="nfkc")
    table = list(charsmap(proto))
    assert len(table) > 1000
    ours = opened(as_file(model, proto, tmp_path / "m.gguf", "t5", precompiled_charsmap=table,
                          remove_extra_whitespaces=True))  # fmt: skip
    pieces = [model.id_to_piece(i) for i in range(3, 1200)]
    for text in texts(1500, 5, pieces, prose()):
        if not any(mark in text for mark in ("<unk>", "</s>", "<s>", "▁", "\0")):
            assert ours.encode(text, False) == model.encode(text), text
    assert ours.encode("the")[-1] == model.eos_id()


def test_a_charsmap_cannot_lead_astray(tmp_path: Path) -> None:
    """A trie whose root has the child `a` at unit 97, with a value at unit 0; then one that points behind the texts."""
    tokens = ["<unk>", "<s>", "</s>", "▁", "b"]
    units = [0] * 256
    units[0] = 0
    for target, sound in ((0, True), (99, False)):
        units[97] = 97 | 1 << 8 | (97 ^ 1) << 10
        units[1] = 1 << 31 | target
        table = struct.pack("<I256I", 1024, *units) + b"b\0"
        given: dict[str, Any] = {"precompiled_charsmap": list(table), "add_space_prefix": True}
        file = vocabulary_file(tmp_path / "m.gguf", "t5", tokens, scores=[0.0, 0.0, 0.0, -1.0, -2.0], **given)
        if sound:
            assert opened(file).encode("a", False) == [3, 4]
        else:
            with pytest.raises(LoadError, match="precompiled_charsmap"):
                opened(file)


# ---- words ----

SAMPLE = "I'LL say: 12345 été\n\n  x==y  HTTPServer 中文, ok!"
WORDS = {
    "gpt-2": "I|'|LL| say|:| 12345| été|\n\n | x|==|y| | HTTPServer| 中文|,| ok|!",
    "llama-bpe": "I|'LL| say|:| |123|45| été|\n\n| | x|==|y| | HTTPServer| 中文|,| ok|!",
    "qwen2": "I|'LL| say|:| |1|2|3|4|5| été|\n\n| | x|==|y| | HTTPServer| 中文|,| ok|!",
    "smollm": "I|'|LL| say|:| |1|2|3|4|5| été|\n\n | x|==|y| | HTTPServer| 中文|,| ok|!",
    "tekken": "I|'LL| say|:| |1|2|3|4|5| été|\n\n| | x|==|y| | HTTPServer| 中文|,| ok|!",
    "deepseek-coder": "I|'|LL| say|:| |1|2|3|4|5| été|\n|\n| | x|==|y| | HTTPServer| |中文|,| ok|!",
}


def words(name: str, text: str) -> list[str]:
    tokenizers = importlib.import_module("tokenizers")
    pieces = [text]
    for pattern in PRE[name].patterns:
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        pieces = [word for piece in pieces for word, _ in split.pre_tokenize_str(piece)]
    return pieces


@pytest.mark.parametrize("name", sorted(PRE))
def test_patterns_lose_nothing(name: str) -> None:
    for text in [*HARD, SAMPLE]:
        assert "".join(words(name, text)) == text


@pytest.mark.parametrize("name", WORDS)
def test_words(name: str) -> None:
    assert "|".join(words(name, SAMPLE)) == WORDS[name]


# ---- llama.cpp itself ----


def peer(path: Path) -> Any:
    library = pytest.importorskip("llama_cpp")
    try:
        return library.Llama(str(path), vocab_only=True, verbose=False)
    except (ValueError, RuntimeError):
        pytest.skip("this llama.cpp cannot read the file")


def assert_as_peer(path: Path, given: list[str]) -> None:
    model, ours = peer(path), opened(path)
    for text in given:
        assert ours.encode(text) == model.tokenize(text.encode(), add_bos=True, special=True), text


@pytest.mark.peer
@needs_shared
@pytest.mark.parametrize("name", sorted(PRE))
def test_byte_level_equals_llama_cpp(name: str, tmp_path: Path) -> None:
    source = shared("tokenizers", "minimind", "tokenizer.json")
    file = from_tokenizer_json(tmp_path / "m.gguf", source, name)
    assert_as_peer(file, texts(200, 6, ["<|im_start|>", "HTTP", "ing", " 12", "'s"], prose()))


@pytest.mark.peer
@needs_shared
def test_sentencepiece_equals_llama_cpp(tmp_path: Path) -> None:
    file = shared("models", "stories260K", "stories260K-q8_0.gguf")
    assert_as_peer(file, texts(1000, 7, ["▁the", "ing", "<s>", "</s>", "<unk>"], prose()))
    model, proto = trained("bpe", tmp_path, byte_fallback=True)
    pieces = [model.id_to_piece(i) for i in range(1200)]
    assert_as_peer(as_file(model, proto, tmp_path / "m.gguf", "llama"), texts(600, 8, pieces, prose()))


@pytest.mark.peer
@needs_shared
def test_wordpiece_equals_llama_cpp(tmp_path: Path) -> None:
    seen = sorted({word.lower() for word in prose().split() if word.isalpha()})[:600]
    parts = [f"▁{c}" for c in map(chr, range(33, 127)) if not c.isupper()]
    parts += [*"abcdefghijklmnopqrstuvwxyz", "ing", "ed"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys([*(f"▁{word}" for word in seen), *parts])]
    ends = {"bos_token_id": 2, "seperator_token_id": 3, "unknown_token_id": 1}
    kinds = [3, 3, 3, 3] + [1] * (len(tokens) - 4)
    file = vocabulary_file(tmp_path / "m.gguf", "bert", tokens, token_type=kinds, **ends)
    assert_as_peer(file, texts(800, 10, ["[SEP]", "ing", " the", "Ünï"], prose()))


@pytest.mark.peer
@needs_shared
def test_unigram_equals_llama_cpp(tmp_path: Path) -> None:
    model, proto = trained("unigram", tmp_path, normalization_rule_name="nfkc")
    for i, flags in enumerate(({"remove_extra_whitespaces": True, "add_bos_token": True}, {"add_eos_token": False},
                               {"add_space_prefix": True})):  # fmt: skip
        table = list(charsmap(proto))
        file = as_file(model, proto, tmp_path / f"{i}.gguf", "t5", precompiled_charsmap=table, **flags)
        assert_as_peer(file, texts(600, 9, [model.id_to_piece(i) for i in range(3, 1200)], prose()))
