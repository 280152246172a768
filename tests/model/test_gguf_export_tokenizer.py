"""Tokenizers of folders as keys of GGUF files: what is read back gives the same ids, what cannot be said is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf_vocabularies import texts

from lanewise.errors import LoadError, UnsupportedError
from lanewise.model.gguf import open_gguf
from lanewise.model.gguf_export_tokenizer import tokenizer_metadata
from lanewise.model.gguf_tokenizer import read_tokenizer
from lanewise.model.gguf_writer import GgufWriter, Value
from lanewise.tokenizer import Tokenizer
from shared import needs_shared, shared

# The patterns of published tokenizer.json files: Llama 3, Qwen2.
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = (
    rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def split(pattern: str) -> dict[str, Any]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, BYTES]}


def made(folder: Path, change: dict[str, Any], **model: Any) -> Tokenizer:
    """minimind's tokenizer with parts of tokenizer.json replaced."""
    source = shared("tokenizers", "minimind")
    state = json.loads((source / "tokenizer.json").read_text())
    state |= change
    state["model"] |= model
    (folder / "tokenizer.json").write_text(json.dumps(state))
    (folder / "tokenizer_config.json").write_text((source / "tokenizer_config.json").read_text())
    return Tokenizer(folder)


def exported(tokenizer: Tokenizer, folder: Path, rows: int = 6400, ends: tuple[int, ...] = (2,)) -> dict[str, Any]:
    """The keys; "again" is what a file with them gives."""
    pairs, notes = tokenizer_metadata(tokenizer, rows, ends, folder)
    with GgufWriter(folder / "t.gguf", {"general.architecture": Value("STRING", "llama"), **pairs}, [], overwrite=True):
        pass
    with open_gguf(folder / "t.gguf") as file:
        parts = read_tokenizer(file)
        assert parts is not None
        again = Tokenizer.of(folder, *parts)
    found = {key.removeprefix("tokenizer.ggml."): value.value for key, value in pairs.items()}
    return {**found, "notes": notes, "again": again}


@needs_shared
@pytest.mark.parametrize(
    ("pre", "name", "ignore"),
    [
        (split(LLAMA3), "llama-bpe", True),
        (split(QWEN2), "qwen2", False),
        ({**BYTES, "use_regex": True}, "gpt-2", False),
        ({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                                {**BYTES, "use_regex": True}]}, "smollm", False),
    ],
    ids=["llama3", "qwen2", "gpt2", "smollm"],
)  # fmt: skip
def test_published_byte_level_tokenizers(pre: dict[str, Any], name: str, ignore: bool, tmp_path: Path) -> None:
    tokenizer = made(tmp_path, {"pre_tokenizer": pre}, ignore_merges=ignore)
    found = exported(tokenizer, tmp_path)
    assert (found["model"], found["pre"], found["notes"]) == ("gpt2", name, [])
    assert (found["add_bos_token"], found["add_eos_token"], found["eos_token_id"]) == (False, False, 2)
    again, prose = found["again"], shared("text", "tinyshakespeare.txt").read_text("utf-8")[:60_000]
    for text in texts(600, 9, ["<|im_start|>", "HTTP", "ing", " 12", "'s", "'LL"], prose):
        assert again.encode(text) == tokenizer.encode(text), text
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert again.templates == tokenizer.templates != {}
    assert again.special_ids == tokenizer.special_ids


@needs_shared
def test_ends_and_rows(tmp_path: Path) -> None:
    tokenizer = made(tmp_path, {})
    found = exported(tokenizer, tmp_path, rows=6432, ends=(2, 0, 1, 5, 6))
    assert (found["eos_token_id"], found["eot_token_id"], found["eom_token_id"]) == (2, 0, 1)
    assert found["notes"] == ["GGUF has room for three ends of a generation; left out: [5, 6]"]
    assert found["tokens"][6400:] == [f"[PAD{i}]" for i in range(6400, 6432)]
    assert set(found["token_type"][6400:]) == {5}
    with pytest.raises(LoadError, match="has the id 6399, but the embedding 6000 rows"):
        tokenizer_metadata(tokenizer, 6000, (2,), tmp_path)


@needs_shared
def test_a_post_processor_that_adds_tokens(tmp_path: Path) -> None:
    def template(*names: str) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [
            {"Sequence": {"id": "A", "type_id": 0}} if name == "A" else {"SpecialToken": {"id": name, "type_id": 0}}
            for name in names
        ]
        special = {name: {"id": name, "ids": [i], "tokens": [name]}
                   for i, name in enumerate(("<|endoftext|>", "<|im_start|>", "<|im_end|>"))}  # fmt: skip
        kind = {"type": "TemplateProcessing", "single": parts, "pair": parts, "special_tokens": special}
        return {"post_processor": kind}

    found = exported(made(tmp_path, template("<|im_start|>", "A", "<|im_end|>")), tmp_path)
    assert (found["add_bos_token"], found["add_eos_token"], found["notes"]) == (True, True, [])
    assert found["again"].encode("a")[::2] == [1, 2]
    with pytest.raises(UnsupportedError, match=r"puts \[2\] before and \[\] behind a text"):
        exported(made(tmp_path, template("<|im_end|>", "A")), tmp_path)


@needs_shared
def test_what_has_no_name_is_refused(tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"pre_tokenizer": split(r"\p{L}{1,3}|\s+")}, "pre_tokenizer: cuts words in a way that has no name"),
        ({"pre_tokenizer": {**BYTES, "add_prefix_space": True}}, "pre_tokenizer: puts a space before"),
        ({"pre_tokenizer": None}, "pre_tokenizer: is neither byte-level nor sentencepiece's"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer: is"),
        ({"model": {"type": "WordPiece", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]", "max_input_chars_per_word": 9,
                    "continuing_subword_prefix": "##"}, "added_tokens": []}, "model.type: is WordPiece"),
        ({"added_tokens": [{"id": 0, "content": "<|endoftext|>", "single_word": False, "lstrip": True, "rstrip": False,
                            "normalized": False, "special": True}]}, "takes spaces beside it"),
    ]  # fmt: skip
    for change, message in wrong:
        with pytest.raises(UnsupportedError, match=message) as caught:
            exported(made(tmp_path, change), tmp_path)
        assert "--no-tokenizer" in str(caught.value)


@needs_shared
def test_a_tokenizer_that_comes_out_differently_is_noted(tmp_path: Path) -> None:
    """A sentencepiece tokenizer whose merges do not follow one order of tokens: scores cannot say that."""
    source = shared("models", "stories260K")
    state = json.loads((source / "tokenizer.json").read_text())
    state["model"]["merges"] = state["model"]["merges"][::-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    found = exported(Tokenizer(tmp_path), tmp_path, 512)
    assert found["notes"] == []
    state["model"]["merges"] = [m for m in state["model"]["merges"] if "".join(m) not in ("▁the", "▁was")]
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    found = exported(Tokenizer(tmp_path), tmp_path, 512)
    assert "the file's tokenizer differs from the folder's on" in found["notes"][0]
