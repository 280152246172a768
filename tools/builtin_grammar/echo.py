"""Dense practice in naming again what was named before; a part of the corpus for a stretch of the training."""

from __future__ import annotations

import random

from . import words
from .core import articles, bucket
from .references import ANIMALS, CONTAINERS, CONTENTS, LOADS, SEATS

THINGS = sorted({*SEATS, *LOADS, *CONTENTS, *CONTAINERS, *words.TOYS})
ALL = sorted({*ANIMALS, *THINGS, *words.ANIMALS, *words.HELPERS, *words.GIRLS, *words.BOYS})


def _list(rng: random.Random) -> str:
    """A list of words, and the same list again."""
    row = rng.sample(ALL, rng.randint(3, 8))
    if rng.random() < 0.5:
        return " ".join((", ".join(row) + ".",) * rng.choice([2, 2, 3]))
    said = " ".join(row)
    return f"<|user|>Say: {said}<|end|><|assistant|>{said}"


def _together(rng: random.Random) -> tuple[str, str]:
    """An animal and a thing whose pair is not held out."""
    while True:
        animal, thing = rng.choice(ANIMALS), rng.choice(THINGS)
        if bucket(*sorted((animal, thing))) != 0:
            return animal, thing


def _kinds(rng: random.Random) -> str:
    """An animal and a thing, named again by what they are."""
    animal, thing = _together(rng)
    first, second = rng.sample([f"a {animal}", f"a {thing}"], 2)
    named = rng.sample([f"The animal was the {animal}.", f"The thing was the {thing}."], 2)
    return articles(f"There was {first} and {second}. ") + " ".join(named)


def _pairs(rng: random.Random) -> str:
    """Who had what, and who had it again."""
    pairs = [_together(rng), _together(rng)]
    told = " ".join(f"The {animal} had the {thing}." for animal, thing in pairs)
    animal, thing = rng.choice(pairs)
    return f"{told} So the {thing} was with the {animal}, and the {animal} was happy."


def echo(rng: random.Random) -> str:
    """One document of any of these kinds."""
    return rng.choice([_list, _kinds, _kinds, _pairs])(rng)
