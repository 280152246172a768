"""What a chat template may make: checks before an operator, filter or method makes it, each raising TemplateError."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import TemplateError

OUTPUT_CHARACTERS = 4 << 20
_BITS = 64


def bounded(size: float) -> None:
    if size > OUTPUT_CHARACTERS:
        raise TemplateError(f"makes a value of over {OUTPUT_CHARACTERS} characters or elements")


def length(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def check_expansion(*values: Any) -> None:
    """Refuse to turn into text what is too long as text: nested lists that share parts can be, beyond any memory."""
    size, todo = 0, [value for value in values if isinstance(value, (list, tuple, dict))]
    while todo:
        value = todo.pop()
        for item in (*value.keys(), *value.values()) if isinstance(value, dict) else value:
            size += 8 + (len(item) if isinstance(item, str) else 0)
            if isinstance(item, (list, tuple, dict)):
                todo.append(item)
            if size > OUTPUT_CHARACTERS:
                bounded(size)


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Refuse a result that is too large before it is made."""
    if operator == "+":
        bounded(length(left) + length(right))
    elif operator == "*":
        if isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > 4 * _BITS:
                raise TemplateError("multiplies integers that are too long")
        elif isinstance(left, int) or isinstance(right, int):
            count, sequence = (left, right) if isinstance(left, int) else (right, left)
            bounded(max(count, 0) * length(sequence))
    elif operator == "**":
        whole = isinstance(left, int) and isinstance(right, int)
        if whole and right > 0 and right * (abs(left).bit_length() - 1) > _BITS:
            raise TemplateError(f"raises to a power beyond {_BITS} bits")
    elif operator == "%" and isinstance(left, str):
        check_format(left)
        check_expansion(right)


def check_format(template: str) -> None:
    """Refuse a format whose width or precision is large or comes from the arguments."""
    if re.search(r"[0-9]{5}", template) or re.search(r"%[^a-zA-Z%]*\*", template) or re.search(r"\{[^{}]*\{", template):
        raise TemplateError("formats with a width that is not a small constant")


def check_method(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """The methods of strings that can make much out of little."""
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if not isinstance(owner, str):
        return
    values = [*args, *kwargs.values()]
    if name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        width = max([abs(value) for value in values if isinstance(value, int)], default=8)
        bounded(len(owner) * width if name == "expandtabs" else width)
    elif name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        bounded(replaced(owner, args[0], args[1]))
    elif name == "join" and args and isinstance(args[0], (list, tuple)):
        bounded(sum(length(item) for item in args[0]) + len(owner) * len(args[0]))
    elif name in ("format", "format_map"):
        check_format(owner)
        check_expansion(*values)
    elif name == "translate":
        raise TemplateError("str.translate is not available")


def replaced(text: str, old: str, new: str) -> int:
    return len(text) + text.count(old) * max(len(new) - len(old), 0)
