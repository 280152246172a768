"""The vocabulary inside a GGUF file: its tokens and what they are for, read and checked, whatever tokenizer uses it.

Kinds of tokens, defaults and which tokens end a generation are as in llama.cpp (src/llama-vocab.cpp), but where that
passes over an error with a warning, the file is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import LoadError, shorten
from .config import MAX_VOCABULARY, Fields
from .gguf import GgufFile
from .gguf_arrays import GgufArray

PREFIX = "tokenizer.ggml."
TOKEN_BYTES = 65_535
UNKNOWN, CONTROL, USER, UNUSED, BYTE = 2, 3, 4, 5, 6  # of token_type; 1: normal
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_NO_ID = 2**32 - 1

# model -> special ids where the file names none
_DEFAULTS: dict[str, dict[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0}, "gpt2": {}, "t5": {"eos": 1, "unknown": 2, "padding": 0},
    "bert": {"bos": 101, "unknown": 100, "seperator": 102, "padding": 0, "mask": 103},
}  # fmt: skip
_IDS = ("bos", "eos", "unknown", "seperator", "padding", "mask", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
# Spellings of tokens after which nothing more is to come, in any model.
_ENDS = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
        *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<eos>"),
        *("<end_of_utterance>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
    )
)
# Spellings of tokens that end a generation too, if the file does not name them: the first that is there.
_FILLERS = {
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
_SHOWN = frozenset(("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"))


@dataclass(slots=True)
class Vocabulary:
    """Tokens by id. ids: by text; kinds: token_type, as far as the file says; special: "bos" and so on -> id."""

    model: str
    tokens: list[str]
    ids: dict[str, int]
    scores: np.ndarray[Any, np.dtype[np.float64]]
    kinds: np.ndarray[Any, np.dtype[np.int64]]
    special: dict[str, int] = field(default_factory=dict)

    def of_kind(self, *kinds: int) -> list[int]:
        """The ids of tokens of these kinds, ascending."""
        return [int(i) for i in np.flatnonzero(np.isin(self.kinds, kinds))]


def read_vocabulary(file: GgufFile) -> Vocabulary | None:
    """The vocabulary of a file; None when it has none. Raises LoadError, naming the key."""
    data = Fields(file.metadata, file.path, "")
    model = data.text(f"{PREFIX}model", None)
    if model in (None, "none", "no_vocab"):
        return None
    if model not in _DEFAULTS:
        known = ", ".join(_DEFAULTS)
        raise data.unsupported(f"{PREFIX}model", f"the tokenizer {shorten(model)!r} is not known; known: {known}")
    tokens = _tokens(file)
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) != len(tokens):
        twice = next(i for i, text in enumerate(tokens) if ids[text] != i)
        message = f"token {shorten(tokens[twice])!r} comes twice, as {twice} and {ids[tokens[twice]]}"
        raise data.error(f"{PREFIX}tokens", message)
    n = len(tokens)
    scores = _numbers(file, "scores", n, ("FLOAT32", "INT32"), 0)
    kinds = _numbers(file, "token_type", n, ("INT32",), 1).astype(np.int64)
    if np.isnan(scores).any():  # before the conversion, which warns of signalling NaN
        raise data.error(f"{PREFIX}scores", f"the score of token {int(np.flatnonzero(np.isnan(scores))[0])} is NaN")
    vocabulary = Vocabulary(model, tokens, ids, scores.astype(np.float64), kinds)
    for i in vocabulary.of_kind(BYTE):
        if not _BYTE.fullmatch(tokens[i]):
            message = f"token {i} is a byte, but is spelled {shorten(tokens[i])!r}, not <0x00> to <0xFF>"
            raise data.error(f"{PREFIX}tokens", message)
    vocabulary.special = _special(data, vocabulary)
    for text in _ENDS & ids.keys():
        kinds[ids[text]] = CONTROL
    for text in _SHOWN & ids.keys():
        kinds[ids[text]] = USER
    return vocabulary


def end_ids(file: GgufFile) -> tuple[int, ...]:
    """The ids after which a generation ends, that of eos_token_id first."""
    vocabulary = file.vocabulary = read_vocabulary(file)
    if vocabulary is None:
        return ()
    found = [vocabulary.special[name] for name in ("eos", "eot", "eom") if name in vocabulary.special]
    spelled = {text for text in _ENDS if text in vocabulary.ids}
    if "<|end|>" in spelled and ({"<|return|>", "<|call|>"} <= spelled or {"<|calls|>", "<|flush|>"} <= spelled):
        spelled.discard("<|end|>")  # these models end one message with it, not the answer
    found += sorted(vocabulary.ids[text] for text in spelled)
    for name, texts in _FILLERS.items():
        first = next((vocabulary.ids[text] for text in texts if text in vocabulary.ids), None)
        number = vocabulary.special.get(name, first)
        found += [] if number is None else [number]
    return tuple(dict.fromkeys(found))


def _tokens(file: GgufFile) -> list[str]:
    data = Fields(file.metadata, file.path)
    key = f"{PREFIX}tokens"
    found = data.values.get(key)
    if not isinstance(found, GgufArray):
        raise data.error(key, "the key is missing" if found is None else "is not an array")
    if not 0 < len(found) <= MAX_VOCABULARY:
        raise data.error(key, f"has {len(found)} tokens, not 1 to {MAX_VOCABULARY}")
    tokens = found.strings()
    if "" in tokens:
        tokens = [text or f"[EMPTY_{i}]" for i, text in enumerate(tokens)]
    longest = max(tokens, key=len)
    if len(longest.encode()) > TOKEN_BYTES:
        raise data.error(key, f"token {tokens.index(longest)} has over {TOKEN_BYTES} bytes")
    return tokens


def _numbers(file: GgufFile, name: str, n: int, kinds: tuple[str, ...], default: int) -> np.ndarray[Any, Any]:
    """An array with a number for each of n tokens; `default` for each when the file has none."""
    data, key = Fields(file.metadata, file.path), f"{PREFIX}{name}"
    found = data.values.get(key)
    if found is None:
        return np.full(n, default)
    if not isinstance(found, GgufArray) or found.kind not in kinds:
        what = repr(found) if isinstance(found, GgufArray) else shorten(found)
        raise data.error(key, f"is {what}, not an array of {' or '.join(kinds)}")
    if len(found) != n:
        raise data.error(key, f"has {len(found)} elements for {n} tokens")
    return found.numbers()


def _special(data: Fields, vocabulary: Vocabulary) -> dict[str, int]:
    n = len(vocabulary.tokens)
    found = {name: i for name, i in _DEFAULTS[vocabulary.model].items() if i < n}
    for name in _IDS:
        key = f"{PREFIX}{name}_token_id"
        if name == "padding" and data.values.get(key) in (_NO_ID, -1):
            continue
        i = data.integer(key, None, low=0, high=n - 1)
        if i is not None:
            found[name] = i
    return found


def error(file: GgufFile, name: str, message: str) -> LoadError:
    """A LoadError on a key of the tokenizer."""
    return LoadError(message, file=file.path, field=PREFIX + name)
