"""What lanewise raises. Every message says what was wrong, where, and where possible what to do."""

from __future__ import annotations

import os


class LanewiseError(Exception):
    """The base of every error that lanewise raises on purpose."""


class LoadError(LanewiseError):
    """A model cannot be loaded. `file` and `field` (a tensor or a key) say where, as far as known."""

    def __init__(self, message: str, *, file: str | os.PathLike[str] | None = None, field: str | None = None) -> None:
        self.file = None if file is None else os.fspath(file)
        self.field = field
        self.reason = message
        where = ": ".join(shorten(part) for part in (self.file, field) if part is not None)
        super().__init__(f"{where}: {message}" if where else message)


class UnsupportedError(LoadError):
    """The model is sound as far as can be seen, but asks for something that lanewise does not do."""


class ContextError(LanewiseError, ValueError):
    """A request needs more positions (`needed`) than the context holds (`limit`)."""

    def __init__(self, needed: int, limit: int, hint: str = "") -> None:
        self.needed = needed
        self.limit = limit
        super().__init__(f"{needed} tokens are needed, but the context holds {limit}{'; ' + hint if hint else ''}")


class TemplateError(LanewiseError, ValueError):
    """A chat template is missing, broken, refused by the sandbox or over one of its limits."""


def shorten(value: object, limit: int = 200) -> str:
    """`value` as one printable line of at most about `limit` characters: files may hold megabytes of anything."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) > limit:
        text = text[: limit - 20] + f"... ({len(text)} characters)"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
