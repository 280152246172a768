"""A tiny template language: `[a|b|c]` chooses, `{slot}` fills, `a` becomes `an` where it must."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Mapping

Slots = Mapping[str, str | Callable[[], str]]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeio]|u[^ns])")


def expand(rng: random.Random, template: str, slots: Slots) -> str:
    """Choose among the alternatives, innermost first, then fill the slots."""
    while match := _CHOICE.search(template):
        pick = rng.choice(match[1].split("|"))
        template = template[: match.start()] + pick + template[match.end() :]
    return articles(_SLOT.sub(lambda found: _fill(found[1], slots), template))


def _fill(name: str, slots: Slots) -> str:
    """The value of a slot; a capital in the slot's name asks for a capital in the text."""
    key = name[0].lower() + name[1:]
    value = slots[key]
    text = value if isinstance(value, str) else value()
    return text[0].upper() + text[1:] if name[0].isupper() else text


def articles(text: str) -> str:
    """Write `an` before a vowel."""
    return _ARTICLE.sub(lambda found: found[1] + "n ", text)


def bucket(*words: str, buckets: int = 8) -> int:
    """A stable bucket for a combination of words; bucket 0 is kept out of the training set."""
    return zlib.crc32("/".join(words).encode()) % buckets
