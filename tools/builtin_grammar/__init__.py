"""The grammar that writes the corpus of the built-in model: everything in it is made up here."""

from __future__ import annotations

import random

from . import chinese, dialogue, english, references, words
from .echo import echo

__all__ = ["SHARES", "corpus", "document", "echoes", "words"]

# Share of documents of each kind. By tokens the stories are about half, for they are long.
SHARES = {"story": 0.13, "everyday": 0.09, "references": 0.4, "chinese": 0.17, "dialogue": 0.21}


def document(rng: random.Random, kind: str) -> str:
    """One document of a kind, without the marks of its beginning and end."""
    if kind == "story":
        return english.story(rng).text
    if kind == "everyday":
        return english.everyday(rng)
    if kind == "references":
        stream = references.references(rng)
        return " ".join(next(stream).text for _ in range(rng.choice([1, 1, 1, 2])))
    if kind == "chinese":
        return chinese.sentences(rng)
    return dialogue.dialogue(rng)


def corpus(seed: int, count: int) -> list[str]:
    """`count` documents, the same for the same seed."""
    rng = random.Random(seed)
    kinds = rng.choices(list(SHARES), list(SHARES.values()), k=count)
    return [document(rng, kind) for kind in kinds]


def echoes(seed: int, count: int) -> list[str]:
    """`count` documents that practise naming again."""
    rng = random.Random(seed)
    return [echo(rng) for _ in range(count)]
