"""A tokenizer of the `tokenizers` library as the keys of a GGUF file, the other direction of gguf_tokenizer.

Two kinds can be said in the format: byte-level BPE whose way of cutting words has a name (gguf_pre), found by cutting
a text that makes all of them differ; and sentencepiece's BPE, whose scores are taken from the order of its merges.
What was written is read back and compared on test texts before a file is made of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LoadError, UnsupportedError, shorten
from .gguf import open_gguf
from .gguf_pre import PRE, Pre
from .gguf_tokenizer import read_tokenizer
from .gguf_vocab import BYTE, CONTROL, PREFIX, UNKNOWN, UNUSED, USER
from .gguf_writer import GgufWriter, Value

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

_SPACE = "▁"
_NORMAL = 1
# The names that are tried first: others cut words the same way.
_FIRST = ("llama-bpe", "qwen2", "gpt-2", "smollm", "tekken", "gpt-4o", "deepseek-v3")
_WORDS = (
    "Hello, World! I'm you're WE'LL they'd it'S don't 'tis\n\n  two  spaces\t\ttabs \r\n lines\n \n x1y22z333 4444 55"
    " 1,234.56 $100 100% a_b-c/d\\e @home #tag (paren) [brack] {brace} <|tag|> ==>!? ... --- http://example.com/a?b=c&d=e"
    " camelCase HTTPServer McDonald ÀÉÎ straße ÑandÚ ǅ Ελληνικά Привет, мир "
    "中文字符，测试。 日本語カタカナ ひらがな 한국어 "
    "العربية עברית हिन्दी ไทย 🙂👍🏽 👨‍👩‍👧 e\u0301 n\u0303 x² ½ ① ٣٤ Ⅷ ʼn \u00a0nbsp \u3000wide \u200bzero　end   "
)
_TEXTS = (
    "", " ", "  ", "\n", "a", " a", "a ", "Hello world", "  leading and trailing  ", "tabs\tand\nlines\r\n\r\nmore",
    "Once upon a time, there was a little girl named Lily. She said: \"I'm happy!\"", _WORDS, _WORDS.lower(),
    "def f(x):\n    return x ** 2  # comment\n\n\tif not y: pass\n", "1234567890 12 345,678.90 3.14159e-10",
)  # fmt: skip


def tokenizer_metadata(
    tokenizer: Tokenizer, rows: int, ends: Iterable[int], path: Path
) -> tuple[dict[str, Value], list[str]]:
    """(keys, notes). rows: of the embedding, further tokens are padding; ends: ids that end a generation.

    Raises UnsupportedError, naming the part, for a tokenizer that the format cannot describe.
    """
    state = tokenizer.state()
    model = state["model"]
    if model.get("type") != "BPE":
        raise _cannot(path, "model.type", f"is {model.get('type')}; GGUF files are written with BPE only")
    tokens, kinds = _tokens(state, rows, path)
    found: dict[str, Value] = {}
    if _has(state, "pre_tokenizer", "ByteLevel"):
        found |= _byte_level(tokenizer, model, path)
    elif _has(state, "decoder", "Replace") and not _has(state, "pre_tokenizer", "Split"):
        found |= _sentencepiece(state, tokens, kinds)
    else:
        raise _cannot(path, "pre_tokenizer", "is neither byte-level nor sentencepiece's")
    found[PREFIX + "tokens"] = Value("STRING", tokens)
    found[PREFIX + "token_type"] = Value("INT32", kinds)
    ids, notes = _special(tokenizer, ends, path)
    found |= ids
    for name, source in tokenizer.templates.items():
        key = "tokenizer.chat_template" + ("" if name == "default" else f".{name}")
        found[key] = Value("STRING", source)
    return found, notes + _compared(tokenizer, found, path)


# ---- parts ----


def _cannot(path: Path, field: str, message: str) -> UnsupportedError:
    return UnsupportedError(f"{message} (--no-tokenizer writes the file without one)", file=path, field=field)


def _steps(state: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """The steps of a part, sequences flattened."""
    found = state.get(part)
    if found is None:
        return []
    inner = found.get("normalizers") or found.get("pretokenizers") or found.get("decoders")
    return list(inner) if found.get("type") == "Sequence" and inner is not None else [found]


def _has(state: dict[str, Any], part: str, kind: str) -> bool:
    return any(step.get("type") == kind for step in _steps(state, part))


def _tokens(state: dict[str, Any], rows: int, path: Path) -> tuple[list[str], list[int]]:
    """Spelling and kind of every id up to the rows of the embedding."""
    by_id = {i: text for text, i in state["model"]["vocab"].items()}
    kinds = dict.fromkeys(by_id, _NORMAL)
    for token in state.get("added_tokens", []):
        by_id[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token["special"] else USER
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            field, text = "added_tokens", shorten(token["content"])
            raise _cannot(path, field, f"{text!r} takes spaces beside it or only whole words, which GGUF cannot say")
    if max(by_id, default=0) >= rows:
        raise LoadError(f"has the id {max(by_id)}, but the embedding {rows} rows", file=path, field="model.vocab")
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(rows)]
    return tokens, [kinds.get(i, UNUSED) for i in range(rows)]


def _byte_level(tokenizer: Tokenizer, model: dict[str, Any], path: Path) -> dict[str, Value]:
    state = tokenizer.state()
    normalizers = [step.get("type") for step in _steps(state, "normalizer")]
    if set(normalizers) - {"NFC"}:
        raise _cannot(path, "normalizer", f"is {shorten(normalizers)}, which GGUF has no name for")
    if any(step.get("add_prefix_space") for step in _steps(state, "pre_tokenizer")):
        raise _cannot(path, "pre_tokenizer", "puts a space before a text, which GGUF cannot say of this kind")
    name = _pre_name(tokenizer, bool(model.get("ignore_merges")), path)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return {
        PREFIX + "model": Value("STRING", "gpt2"),
        PREFIX + "pre": Value("STRING", name),
        PREFIX + "merges": Value("STRING", merges),
    }


def _pre_name(tokenizer: Tokenizer, ignore_merges: bool, path: Path) -> str:
    """The name of the way in which the tokenizer cuts words."""
    wanted = _pieces(tokenizer.pre_tokenizer, _WORDS)
    for name in dict.fromkeys((*_FIRST, *PRE)):
        pre = PRE[name]
        if pre.ignore_merges == ignore_merges and _pieces(_pre_tokenizer(pre), _WORDS) == wanted:
            return name
    raise _cannot(path, "pre_tokenizer", "cuts words in a way that has no name in GGUF")


def _pre_tokenizer(pre: Pre) -> Any:
    from tokenizers import Regex, pre_tokenizers

    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _pieces(pre_tokenizer: Any, text: str) -> list[str]:
    return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]


def _sentencepiece(state: dict[str, Any], tokens: list[str], kinds: list[int]) -> dict[str, Value]:
    """Scores fall with the rank of the merge that makes a token; what no merge makes comes last."""
    model = state["model"]
    merges = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    rank: dict[str, int] = {}
    for left, right in merges:
        rank.setdefault(left + right, len(rank))
    scores = [-float(rank.get(text, len(rank) + 1)) for text in tokens]
    unknown = model.get("unk_token")
    for i, text in enumerate(tokens):
        if text == unknown:
            kinds[i] = UNKNOWN
        elif model.get("byte_fallback") and len(text) == 6 and text.startswith("<0x") and kinds[i] in (_NORMAL, USER):
            kinds[i] = BYTE
    prefix = any(
        step.get("type") == "Prepend" or step.get("prepend_scheme") in ("always", "first")
        for step in [*_steps(state, "normalizer"), *_steps(state, "pre_tokenizer")]
    )
    trims = any(step.get("pattern") == {"Regex": " {2,}"} for step in _steps(state, "normalizer"))
    return {
        PREFIX + "model": Value("STRING", "llama"),
        PREFIX + "pre": Value("STRING", "default"),
        PREFIX + "scores": Value("FLOAT32", scores),
        PREFIX + "add_space_prefix": Value("BOOL", prefix),
        PREFIX + "remove_extra_whitespaces": Value("BOOL", trims),
    }


def _special(tokenizer: Tokenizer, ends: Iterable[int], path: Path) -> tuple[dict[str, Value], list[str]]:
    """Ids of special tokens, and which of them a text is put between."""
    found: dict[str, Value] = {}
    notes: list[str] = []
    ids = {name: tokenizer.token_id(text) for name, text in tokenizer.special_tokens.items()}
    for ours, theirs in (
        ("bos", "bos"),
        ("unk", "unknown"),
        ("pad", "padding"),
        ("sep", "seperator"),
        ("mask", "mask"),
    ):
        i = ids.get(f"{ours}_token")
        if i is not None:
            found[f"{PREFIX}{theirs}_token_id"] = Value("UINT32", i)
    stops = list(dict.fromkeys(ends))
    eos = ids.get("eos_token")
    if eos is not None and eos in stops:
        stops.remove(eos)
    elif eos is None and stops:
        eos = stops.pop(0)
    for name, i in zip(("eos", "eot", "eom"), [eos, *stops], strict=False):
        if i is not None:
            found[f"{PREFIX}{name}_token_id"] = Value("UINT32", i)
    if len(stops) > 2:
        notes.append(f"GGUF has room for three ends of a generation; left out: {stops[2:]}")
    bare, whole = tokenizer.encode("a", False), tokenizer.encode("a", True)
    at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), None)
    bos = ids.get("bos_token")
    before, after = (whole[:at], whole[at + len(bare) :]) if at is not None else ([], [])
    if bos is None and len(before) == 1:  # nothing names it, but it is what a text begins with
        bos = before[0]
        found[f"{PREFIX}bos_token_id"] = Value("UINT32", bos)
    if at is None or before not in ([], [bos]) or after not in ([], [eos]):
        raise _cannot(path, "post_processor", f"puts {before} before and {after} behind a text, which GGUF cannot say")
    found[PREFIX + "add_bos_token"] = Value("BOOL", bool(before))
    found[PREFIX + "add_eos_token"] = Value("BOOL", bool(after))
    return found, notes


def _compared(tokenizer: Tokenizer, found: dict[str, Value], path: Path) -> list[str]:
    """A note if the file's tokenizer gives other ids than ours on any of the test texts."""
    from ..tokenizer import Tokenizer

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.gguf"
        with GgufWriter(file, {"general.architecture": Value("STRING", "llama"), **found}, []):
            pass
        with open_gguf(file) as opened:
            parts = read_tokenizer(opened)
            assert parts is not None
            again = Tokenizer.of(path, *parts)
    different = [text for text in _TEXTS if again.encode(text) != tokenizer.encode(text)]
    if not different:
        return []
    shown = shorten(min(different, key=len), 60)
    return [f"the file's tokenizer differs from the folder's on {len(different)} of {len(_TEXTS)} texts, as {shown!r}"]
