"""Text to token ids and back, whole or streamed, through the `tokenizers` library; a model's chat template."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chat_template import ChatTemplate
from .errors import LoadError, TemplateError, shorten
from .model import files
from .model.config import Fields

if TYPE_CHECKING:
    import tokenizers

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE_FILE = "chat_template.jinja"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f+][0-9A-Fa-f]>")  # as the library's parser takes them


class Tokenizer:
    """A model's tokenizer. Every method may be called from many threads.

    special_tokens: name -> text ("bos_token": "<s>", ...), what a chat template sees. bos_id, eos_id: the ids of
    those two, None where there is none (what ends a generation is `Generation.eos_ids` of model.config, which may
    hold more than one). special_ids: ids that decoding leaves out.
    """

    def __init__(self, folder: Path) -> None:
        """Read tokenizer.json, tokenizer_config.json and chat_template.jinja of a model folder. Raises LoadError."""
        tokenizer = _load(folder)
        config: dict[str, Any] = {}
        if files.has(folder, TOKENIZER_CONFIG):
            config = files.read_object(files.member(folder, TOKENIZER_CONFIG))
        fields = Fields(config, folder / TOKENIZER_CONFIG)
        self._set(folder, tokenizer, _special_tokens(fields), _read_templates(folder, fields))

    @classmethod
    def of(
        cls, source: Path, tokenizer: tokenizers.Tokenizer, special_tokens: dict[str, str], templates: dict[str, str]
    ) -> Tokenizer:
        """One made of parts that come from elsewhere; `source` is what messages name, templates: by name."""
        made = cls.__new__(cls)
        made._set(source, tokenizer, special_tokens, templates)
        return made

    def _set(
        self, folder: Path, tokenizer: tokenizers.Tokenizer, special_tokens: dict[str, str], templates: dict[str, str]
    ) -> None:
        self.folder, self._tokenizer = folder, tokenizer
        self.special_tokens, self._templates = special_tokens, templates
        self.bos_id = self._id("bos_token")
        self.eos_id = self._id("eos_token")
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self._compiled: dict[str, ChatTemplate] = {}
        self._kind = _decoder_kind(self._tokenizer)
        self._bytes: dict[int, bytes] = {}

    @property
    def vocabulary(self) -> int:
        """One more than the highest id: the model's embedding may have more rows, never fewer."""
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        return max(ids, default=-1) + 1

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of `text`. Special tokens spelled out in the text become their ids, as in transformers.

        What is put before and after the text is tokenizer.json's affair alone; transformers, too, passes over
        add_bos_token of tokenizer_config.json where there is a tokenizer.json. Raises TypeError; LoadError for a
        tokenizer that has no way to write the text (an unknown character, but no token for it).
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a string, not {type(text).__name__}")
        # A lone surrogate has no UTF-8 form; transformers' backend refuses it with an unclear error.
        text = text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        except BaseException as error:
            raise _failure(error, "cannot encode the text", self.folder) from None
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `ids`. Ids that the tokenizer does not have give nothing. LoadError when its decoder fails."""
        known = [int(i) for i in ids]
        try:
            text: str = self._tokenizer.decode(known, skip_special_tokens=skip_special_tokens)
        except BaseException as error:
            raise _failure(error, "cannot decode the ids", self.folder) from None
        return text

    def decoder(self, skip_special_tokens: bool = True) -> Decoder:
        """A new incremental decoder, for one sequence."""
        return Decoder(self, skip_special_tokens)

    def token(self, i: int) -> str | None:
        """The vocabulary's own spelling of id `i`; None when there is none."""
        text: str | None = self._tokenizer.id_to_token(i)
        return text

    def token_id(self, text: str) -> int | None:
        """The id of a token by the vocabulary's spelling; None when there is none."""
        i: int | None = self._tokenizer.token_to_id(text)
        return i

    def state(self) -> dict[str, Any]:
        """All of the tokenizer as tokenizer.json says it."""
        state: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return state

    @property
    def pre_tokenizer(self) -> Any:
        """The library's step that cuts a text into words; None where there is none."""
        return self._tokenizer.pre_tokenizer

    @property
    def templates(self) -> dict[str, str]:
        """The chat templates by name; "default" is the usual one."""
        return dict(self._templates)

    @property
    def has_chat_template(self) -> bool:
        return bool(self._templates)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt for `messages` ({"role", "content"} objects). Encode it with add_special_tokens=False.

        Raises TemplateError when the model has no template or it fails; TypeError for wrong arguments.
        """
        if not self._templates:
            raise TemplateError(
                f"{self.folder}: the model has no chat template (neither {TEMPLATE_FILE} nor chat_template in "
                f"{TOKENIZER_CONFIG}); it is likely no chat model: give it plain text to continue"
            )
        name = "tool_use" if tools and "tool_use" in self._templates else "default"
        if name not in self._templates:
            raise TemplateError(f"{self.folder}: no chat template is named default, only {', '.join(self._templates)}")
        if name not in self._compiled:
            self._compiled[name] = ChatTemplate(self._templates[name], f"{self.folder}: chat template {name}")
        return self._compiled[name].render(
            messages, tools, add_generation_prompt, **{**self.special_tokens, **variables}
        )

    def _id(self, name: str) -> int | None:
        text = self.special_tokens.get(name)
        return None if text is None else self.token_id(text)

    def token_bytes(self, i: int) -> bytes:
        """What id `i` adds to the bytes of a text, for a byte-level vocabulary."""
        found = self._bytes.get(i)
        if found is None:
            text = self._tokenizer.id_to_token(i) or ""
            try:
                found = bytes(_BYTE_OF[c] for c in text)
            except KeyError:  # an added token, spelled as it is
                found = text.encode("utf-8")
            self._bytes[i] = found
        return found

    def is_skipped(self, i: int, skip_special_tokens: bool) -> bool:
        """Whether decoding leaves out id `i`."""
        return (skip_special_tokens and i in self.special_ids) or self._tokenizer.id_to_token(i) is None


class Decoder:
    """Decodes one token at a time: the pieces of `push`, then `flush`, joined are `decode` of all ids, exactly.

    A piece never holds half a character. Byte-level vocabularies give a character with its last byte. With byte
    fallback (`<0xE4>` tokens) a run of byte tokens is given when it ends, since one invalid byte changes how the whole
    run reads. Any other decoder is asked for the text anew, over a window of few tokens: the first that has text
    (decoders treat the first one differently), the last given, and those not given yet.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._first: list[int] = []  # up to and with the first token that has text
        self._first_done = False
        self._last: list[int] = []
        self._pending: list[int] = []

    def push(self, i: int) -> str:
        """The new text that id `i` completes, often ""."""
        if self._tokenizer.is_skipped(i, self._skip):
            return ""
        if self._tokenizer._kind == "bytes":
            return self._utf8.decode(self._tokenizer.token_bytes(i))
        self._pending.append(i)
        if self._tokenizer._kind == "fallback" and _BYTE_TOKEN.fullmatch(self._tokenizer.token(i) or ""):
            return ""
        return self._take()

    def extend(self, ids: Iterable[int]) -> str:
        """`push` for each id, joined."""
        return "".join([self.push(i) for i in ids])

    def flush(self) -> str:
        """What is left at the end: an unfinished character reads as U+FFFD."""
        return self._utf8.decode(b"", True) + (self._take() if self._pending else "")

    def _take(self) -> str:
        known = [*self._first, *self._last]
        before = self._decode(known)
        after = self._decode([*known, *self._pending])
        if self._first_done:
            self._last = self._pending[-1:]
        else:
            self._first += self._pending
            self._first_done = after != ""
        self._pending = []
        return after[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, self._skip) if ids else ""


def _failure(error: BaseException, message: str, file: Path) -> BaseException:
    """What to raise for an error of the library, a panic of which comes as a BaseException of its own."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
        return error
    return LoadError(f"{message} ({shorten(str(error))})", file=file)


def _load(folder: Path) -> tokenizers.Tokenizer:
    import tokenizers

    shown = folder / TOKENIZER
    if not files.has(folder, TOKENIZER):
        raise LoadError("the file is missing; lanewise needs the tokenizer in this form", file=shown)
    data = files.read_bytes(files.member(folder, TOKENIZER))
    if files.too_deep(data, files.JSON_DEPTH):
        raise LoadError(f"JSON is nested deeper than {files.JSON_DEPTH}", file=shown)
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(data)
    except BaseException as error:
        raise _failure(error, "is not a tokenizer that can be read", shown) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _decoder_kind(tokenizer: tokenizers.Tokenizer) -> str:
    """ "bytes": byte-level; "fallback": `<0xE4>` tokens are bytes; "other"."""
    if tokenizer.decoder is None:
        return "other"
    state = json.loads(tokenizer.decoder.__getstate__())
    kinds = [part.get("type") for part in state.get("decoders", [state])]
    if kinds == ["ByteLevel"]:
        return "bytes"
    return "fallback" if "ByteFallback" in kinds else "other"


def _special_tokens(fields: Fields) -> dict[str, str]:
    """Every `..._token` of tokenizer_config.json that names a token, as a string or as an object with `content`."""
    found: dict[str, str] = {}
    for key, value in fields.values.items():
        if not key.endswith("_token") or value is None or isinstance(value, bool):
            continue
        text = value.get("content") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise fields.error(key, f"is {shorten(value)}, not a token")
        found[key] = text
    return found


def _read_templates(folder: Path, fields: Fields) -> dict[str, str]:
    """name -> source; "default" is the usual one. chat_template.jinja goes before tokenizer_config.json."""
    if files.has(folder, TEMPLATE_FILE):
        data = files.read_bytes(files.member(folder, TEMPLATE_FILE), 1 << 20)
        try:
            return {"default": data.decode("utf-8")}
        except UnicodeDecodeError as error:
            raise LoadError(f"is not UTF-8 (byte {error.start})", file=folder / TEMPLATE_FILE) from None
    value = fields.values.get("chat_template")
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    found: dict[str, str] = {}
    for entry in value if isinstance(value, list) else [None]:
        name, source = (entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(source, str):
            raise fields.error("chat_template", "is neither a string nor a list of {name, template}")
        found[name] = source
    return found


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level vocabularies spell bytes: printable ones themselves, the rest from U+0100 on.

    Radford et al. (GPT-2, 2019), `bytes_to_unicode`.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()
