"""The tokenizer inside a GGUF file, as an object of the `tokenizers` library that gives the ids that llama.cpp gives.

Four kinds. `gpt2`: byte-level BPE, with the words of gguf_pre. `llama` (sentencepiece BPE): llama.cpp merges the pair
whose result has the highest score, the leftmost first; the library merges by rank, so each way of putting a token
together of two becomes a merge, ranked by the token's score. `bert`: WordPiece, longest piece first. `t5`: Unigram.

Where it differs from llama.cpp: `remove_extra_whitespaces` is heeded for `llama` too (sentencepiece does; llama.cpp
does not); a character that a `llama` vocabulary without bytes lacks is the unknown token (llama.cpp fails); two `llama`
tokens of exactly the same score merge in the order of their ids, not of their places; a `bert` word of over 400
characters is unknown; the library's normaliser for `t5` drops a combining mark behind a character that it maps.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import LoadError, UnsupportedError, shorten
from .config import Fields
from .gguf import GgufFile
from .gguf_arrays import GgufArray
from .gguf_charsmap import check_charsmap
from .gguf_pre import PRE
from .gguf_vocab import BYTE, CONTROL, PREFIX, UNKNOWN, USER, Vocabulary, error, read_vocabulary

if TYPE_CHECKING:
    import tokenizers

_SPACE = "▁"
_SPLITS = 1 << 28  # work to find the merges of a `llama` vocabulary: the squares of its tokens' lengths
_WORD = 400
_TEMPLATE = "tokenizer.chat_template"


def read_tokenizer(file: GgufFile) -> tuple[tokenizers.Tokenizer, dict[str, str], dict[str, str]] | None:
    """(tokenizer, special tokens by name as "bos_token", chat templates by name); None for a file without vocabulary.

    Raises LoadError, naming the key.
    """
    vocabulary: Vocabulary | None = file.vocabulary or read_vocabulary(file)
    file.vocabulary = None  # building may change it, and it is large
    if vocabulary is None:
        return None
    build = {"llama": _sentencepiece, "gpt2": _bytes, "bert": _wordpiece, "t5": _unigram}[vocabulary.model]
    try:
        tokenizer = build(file, vocabulary)
    except LoadError:
        raise
    except BaseException as failure:  # a panic in the library comes as a BaseException of its own
        if isinstance(failure, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        message = f"the library refuses the vocabulary ({shorten(str(failure))})"
        raise error(file, "tokens", message) from None
    _add_special(file, tokenizer, vocabulary)
    named = {"bos": "bos", "eos": "eos", "unknown": "unk", "seperator": "sep", "padding": "pad", "mask": "mask"}
    special = {
        f"{short}_token": vocabulary.tokens[vocabulary.special[name]]
        for name, short in named.items()
        if name in vocabulary.special
    }
    return tokenizer, special, _templates(file)


# ---- kinds ----


def _bytes(file: GgufFile, vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    name = Fields(file.metadata, file.path).text(f"{PREFIX}pre", "default")
    if name not in PRE:
        message = f"the pre-tokenizer {shorten(name)!r} is not known; known: {', '.join(sorted(PRE))}"
        raise UnsupportedError(message, file=file.path, field=f"{PREFIX}pre")
    pre = PRE[name]
    merges = _merges(file)
    try:  # the library checks them, in a tenth of the time
        model = models.BPE(vocabulary.ids, _pairs(merges), ignore_merges=pre.ignore_merges)
    except Exception:
        _check_merges(file, vocabulary, merges.strings())
        raise
    tokenizer = Tokenizer(model)
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    _add_ends(file, tokenizer, vocabulary, bos=pre.bos, eos=False)
    return tokenizer


def _sentencepiece(file: GgufFile, vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    prefix = _flag(file, "add_space_prefix", True)
    unknown = vocabulary.special.get("unknown")
    bytes_there = len(vocabulary.of_kind(BYTE)) > 0
    model = models.BPE(
        vocabulary.ids, _merges_by_score(file, vocabulary), fuse_unk=True, byte_fallback=bytes_there,
        unk_token=None if unknown is None else vocabulary.tokens[unknown],
    )  # fmt: skip
    tokenizer = Tokenizer(model)
    steps = _trimmed() if _flag(file, "remove_extra_whitespaces", False) else []
    steps += [normalizers.Prepend(_SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    parts = [decoders.Replace(_SPACE, " "), *([decoders.ByteFallback()] if bytes_there else []), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, *([decoders.Strip(" ", 1, 0)] if prefix else [])])
    _add_ends(file, tokenizer, vocabulary, bos=True, eos=False)
    return tokenizer


def _wordpiece(file: GgufFile, vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    """In the file a piece that begins a word has a ▁, one that continues it nothing; the library marks that with ##."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces: dict[str, int] = {}
    control = set(vocabulary.of_kind(CONTROL, UNKNOWN))
    for i, text in enumerate(vocabulary.tokens):
        spelled = text if i in control else text[1:] if text.startswith(_SPACE) else "##" + text
        if spelled in pieces:
            raise error(file, "tokens", f"tokens {pieces[spelled]} and {i} are the same piece {shorten(spelled)!r}")
        pieces[spelled] = i
    if "unknown" not in vocabulary.special:
        raise error(file, "unknown_token_id", "the key is missing")
    unknown = vocabulary.special["unknown"]
    spelling = {i: text for text, i in pieces.items()}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token=spelling[unknown], max_input_chars_per_word=_WORD))
    lower = _flag(file, "normalizer.lowercase", True)
    steps: list[Any] = [normalizers.Replace("\x85", " ")]  # white space there, a control character here
    if _flag(file, "normalizer.strip_accents", lower):
        steps += [normalizers.NFD(), normalizers.Replace(Regex(r"\p{M}"), "")]
    bert = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=lower)
    tokenizer.normalizer = normalizers.Sequence([*steps, bert])
    # Bert's own step knows less punctuation than newer tables of Unicode.
    marks = pre_tokenizers.Split(Regex(r"\p{P}"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), marks])
    tokenizer.decoder = decoders.WordPiece("##", cleanup=False)
    vocabulary.tokens = [spelling[i] for i in range(len(pieces))]
    _add_ends(file, tokenizer, vocabulary, bos=True, eos=True, last="seperator", always=True)
    return tokenizer


def _unigram(file: GgufFile, vocabulary: Vocabulary) -> tokenizers.Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers

    if _flag(file, "treat_whitespace_as_suffix", False):
        raise UnsupportedError("is not supported", file=file.path, field=f"{PREFIX}treat_whitespace_as_suffix")
    if "unknown" not in vocabulary.special:
        raise error(file, "unknown_token_id", "the key is missing")
    scores = vocabulary.scores.copy()
    scores[vocabulary.of_kind(USER)] = 0.0
    pairs = list(zip(vocabulary.tokens, scores.tolist(), strict=True))
    tokenizer = Tokenizer(models.Unigram(pairs, vocabulary.special["unknown"], False))
    steps: list[Any] = []
    charsmap = file.metadata.get(f"{PREFIX}precompiled_charsmap")
    if charsmap is not None:
        steps.append(normalizers.Precompiled(check_charsmap(file, charsmap)))
    merged = _flag(file, "remove_extra_whitespaces", False)
    steps += _trimmed() if merged else []
    if merged or _flag(file, "add_space_prefix", False):
        steps.append(normalizers.Replace(Regex(r"\A(?= *[^ ])"), _SPACE))  # before a text that is not all spaces
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Metaspace(_SPACE, prepend_scheme="always")
    _add_ends(file, tokenizer, vocabulary, bos=False, eos=True)
    return tokenizer


# ---- parts ----


def _merges(file: GgufFile) -> GgufArray:
    """The merges of a byte-level vocabulary: two parts with a space between them."""
    found = file.metadata.get(f"{PREFIX}merges")
    if not isinstance(found, GgufArray):
        raise error(file, "merges", "the key is missing" if found is None else "is not an array")
    return found


class _Pairs(Sequence[tuple[str, str]]):
    """Merges as the library asks for them, one at a time: 280,000 tuples at once cost more than they tell it."""

    def __init__(self, parts: list[str]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts) // 2

    def __getitem__(self, i: Any) -> Any:
        return self._parts[2 * i], self._parts[2 * i + 1]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        parts = iter(self._parts)
        return zip(parts, parts, strict=True)


def _pairs(merges: GgufArray) -> Any:
    """Each merge cut at its spaces."""
    text = merges.joined()
    if text is not None:
        marks = np.frombuffer(text, np.uint8)
        marks = marks[(marks == ord(" ")) | (marks == 0)]
        if len(marks) == 2 * len(merges) and (marks[::2] != 0).all() and (marks[1::2] == 0).all():
            with contextlib.suppress(UnicodeDecodeError):
                return _Pairs(text[:-1].replace(b"\0", b" ").decode("utf-8").split(" "))
    return [tuple(merge.split(" ")) for merge in merges.strings()]


def _check_merges(file: GgufFile, vocabulary: Vocabulary, merges: list[str]) -> None:
    """Says which merge the library has refused: one that is not two parts, which and whose sum are tokens."""
    ids = vocabulary.ids
    for i, text in enumerate(merges):
        parts = text.split(" ")
        if len(parts) != 2 or not all(parts):
            raise error(file, "merges", f"merge {i} is {shorten(text)!r}, not two parts with a space between them")
        left, right = parts
        if left not in ids or right not in ids or left + right not in ids:
            lacking = next(part for part in (left, right, left + right) if part not in ids)
            raise error(file, "merges", f"merge {i} is {shorten(text)!r}, but {shorten(lacking)!r} is no token")


def _merges_by_score(file: GgufFile, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to make a token of two others, those of the highest score first.

    Of the ways to make one token, those with the longer left part come first: where two overlap (in `aa a aa`, say),
    it is the leftmost.
    """
    ids, tokens = vocabulary.ids, vocabulary.tokens
    lengths = np.fromiter((len(text) for text in tokens), np.int64, len(tokens))
    if int((lengths * lengths).sum()) > _SPLITS:
        raise error(file, "tokens", f"the tokens are too long: their lengths' squares add up to over {_SPLITS}")
    merges: list[tuple[str, str]] = []
    for i in np.argsort(-vocabulary.scores, kind="stable"):
        text = tokens[i]
        for cut in range(len(text) - 1, 0, -1):
            if text[:cut] in ids and text[cut:] in ids:
                merges.append((text[:cut], text[cut:]))
    return merges


def _trimmed() -> list[Any]:
    """Steps of a normaliser: no spaces at the ends, one between words."""
    from tokenizers import Regex, normalizers

    return [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]


def _add_ends(
    file: GgufFile, tokenizer: tokenizers.Tokenizer, vocabulary: Vocabulary, *, bos: bool, eos: bool,
    last: str = "eos", always: bool = False,
) -> None:  # fmt: skip
    """What stands before and after a text. bos, eos: where the file does not say; always: whatever it says."""
    from tokenizers import processors

    template, special = ["$A"], []
    for name, wanted in (("bos", bos), (last, eos)):
        if not (always or _flag(file, f"add_{name}_token", wanted)):
            continue
        if name not in vocabulary.special:
            raise error(file, f"{name}_token_id", "the key is missing, but the token is to be added")
        i = vocabulary.special[name]
        special.append((f"<{name}>", i))
        template = [f"<{name}>", *template] if name == "bos" else [*template, f"<{name}>"]
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)


def _add_special(file: GgufFile, tokenizer: tokenizers.Tokenizer, vocabulary: Vocabulary) -> None:
    """Tokens that are found in a text before anything else: control tokens and the user's own."""
    from tokenizers import AddedToken

    general = Fields(file.metadata, file.path).text("general.name", None) or ""
    strips = re.search("phi-?3", general.lower()) is not None  # llama.cpp knows them by their name alone
    keeps = ("<unk>", "<s>", "<|endoftext|>")
    control = set(vocabulary.of_kind(CONTROL, UNKNOWN))
    added = []
    for i in vocabulary.of_kind(CONTROL, UNKNOWN, USER):
        text = vocabulary.tokens[i]
        right = strips and text not in keeps
        added.append(AddedToken(text, rstrip=right, normalized=False, special=i in control))
    tokenizer.add_tokens(added)


def _flag(file: GgufFile, name: str, default: bool) -> bool:
    return Fields(file.metadata, file.path).flag(PREFIX + name, default)


def _templates(file: GgufFile) -> dict[str, str]:
    """Chat templates by name; "default" is the usual one."""
    data = Fields(file.metadata, file.path)
    found: dict[str, str] = {}
    for key in file.metadata:
        if key == _TEMPLATE or key.startswith(f"{_TEMPLATE}."):
            source = data.text(key)
            found[key[len(_TEMPLATE) + 1 :] or "default"] = source
    return found
