# ruff: noqa: SIM905 - a sentence stays on one line, a list of words is one string
"""Sentences in which *it* stands for one of two things, and only the meaning says for which."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from .core import bucket

ANIMALS = (
    "cat dog fox rabbit bear mouse squirrel hedgehog owl duck frog turtle kitten puppy bird pig goat lamb otter "
    "badger pony donkey cow hen goose lion wolf monkey mole raccoon beaver penguin"
).split()


class Reference(NamedTuple):
    """One sentence; `text[:cut]` ends just before the word that names what *it* was."""

    family: str
    head: str  # the first half, up to and with what is said of *it*
    text: str
    cut: int
    right: str
    wrong: str
    state: str
    held_out: str  # "" (for training), "pair" or "attribute": why it is kept out


SEATS = "mat rug pillow blanket sofa cushion bed chair bench stool carpet mattress".split()
SEAT_VERBS = ["sat on", "lay on", "jumped onto", "climbed onto", "stood on", "rested on"]
SEAT_STATES: dict[str, list[str]] = {
    "soft": ["felt like a cloud", "was a good place to rest"],
    "dirty": ["had to be washed", "needed a good wash"],
    "dusty": ["had to be cleaned", "needed a good brush"],
    "torn": ["had to be mended", "needed a new cover"],
    "hard": ["was not a good place to rest", "needed some padding"],
    "lumpy": ["was not a good place to rest", "had to be shaken out"],
    "comfortable": ["was everyone's favourite place", "was a good place to rest"],
    "stained": ["had to be washed", "was put away"],
    "new": ["still smelled of the shop", "had not a single stain"],
}
ANIMAL_STATES: dict[str, list[str]] = {
    "tired": ["fell asleep", "took a long nap"],
    "sleepy": ["fell asleep", "yawned and slept"],
    "hungry": ["looked for some food", "asked for dinner"],
    "thirsty": ["looked for some water", "drank from a bowl"],
    "sad": ["began to cry", "did not want to play"],
    "happy": ["hummed a little song", "smiled at everyone"],
    "scared": ["did not dare to move", "called for help"],
    "bored": ["looked for a game", "wanted to play"],
    "lonely": ["looked for a friend", "called for its friends"],
    "curious": ["looked all around", "asked many questions"],
    "angry": ["did not talk to anyone", "stamped its feet"],
    "sick": ["stayed there all day", "called for a doctor"],
}
LOADS = "ball box stone basket bucket log pumpkin bag pot barrel sack book melon chest lamp plank".split()
LOAD_VERBS = ["could not lift", "could not carry", "could not move", "dropped"]
LOAD_STATES: dict[str, list[str]] = {
    "heavy": ["stayed on the ground", "was left behind"],
    "slippery": ["slid away", "was left behind"],
    "huge": ["was left behind", "stayed on the ground"],
    "sticky": ["had to be washed", "stayed on the ground"],
    "hot": ["had to cool down", "stayed on the ground"],
    "smooth": ["slid away", "stayed on the ground"],
}
CARRIER_STATES: dict[str, list[str]] = {
    "weak": ["asked for help", "went away to rest"],
    "tired": ["went away to rest", "took a long nap"],
    "sleepy": ["went to bed early", "took a long nap"],
    "lazy": ["asked for help", "did not try again"],
    "clumsy": ["asked for help", "was more careful the next time"],
    "sick": ["went to bed early", "called for a doctor"],
}
BIG = ["big", "large", "wide", "long", "thick"]
SMALL = ["small", "low", "narrow", "short", "tiny"]
CONTENTS = "ball book kite boat lamp drum pumpkin melon scarf bell flute clock hat cup bottle spoon".split()
CONTAINERS = "box bag basket drawer cupboard suitcase bucket chest pocket jar tin crate".split()

# verb -> (what "it" says of the first animal and what follows, the same for the second).
DEEDS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "fed": (
        {"was kind": "liked to help", "had too much food": "gave half of it away"},
        {"was hungry": "ate every bit", "had nothing to eat": "felt better soon"},
    ),
    "hugged": (
        {"was kind": "liked to help", "wanted to cheer up its friend": "said some gentle words"},
        {"was sad": "felt better soon", "was crying": "stopped crying"},
    ),
    "carried": (
        {"was strong": "did not even get tired", "was kind": "liked to help"},
        {"was hurt": "felt better soon", "could not walk": "was glad of the help"},
    ),
    "hid from": (
        {"was scared": "did not make a sound", "was shy": "stayed behind a tree"},
        {"was fierce": "growled loudly", "was dangerous": "growled loudly"},
    ),
    "ran away from": (
        {"was scared": "did not look back", "was afraid": "ran all the way home"},
        {"was fierce": "growled loudly", "was angry": "shouted for a long time"},
    ),
    "thanked": (
        {"was grateful": "gave a present too", "had been helped": "was very glad"},
        {"had been helpful": "said that it was nothing", "had given good advice": "said that it was nothing"},
    ),
    "asked for help from": (
        {"was lost": "found the way home", "was in trouble": "was safe in the end"},
        {"was wise": "knew what to do", "was clever": "knew what to do"},
    ),
    "followed": (
        {"was curious": "wanted to see everything", "was lost": "found the way home"},
        {"knew the way": "led the way home", "had a map": "led the way home"},
    ),
    "woke": (
        {"was bored": "wanted to play", "was lonely": "wanted to talk"},
        {"was snoring": "yawned and got up", "had slept too long": "yawned and got up"},
    ),
    "visited": (
        {"was lonely": "wanted to talk", "was bored": "wanted to play"},
        {"was sick": "felt better soon", "could not leave its bed": "was glad of the company"},
    ),
    "waited for": (
        {"was patient": "did not mind at all", "had arrived early": "sat down on a stone"},
        {"was late": "came at last", "was slow": "came at last"},
    ),
    "chased": (
        {"was playful": "wanted to play", "was fast": "won the game"},
        {"had stolen some food": "had to give it back", "had taken a hat": "had to give it back"},
    ),
}


def _held(first: str, second: str, thing: str, state: str) -> str:
    """Why a combination is kept out of the training set, or nothing."""
    if bucket(*sorted((first, second))) == 0:
        return "pair"
    return "attribute" if bucket(thing, state, buckets=10) == 0 else ""


def _finish(
    rng: random.Random,
    family: str,
    head: str,
    joins: list[str],
    names: tuple[str, str],
    state: str,
    end: str,
    held: str,
) -> Reference:
    """Join the two halves; names = (right, wrong)."""
    prefix = head + rng.choice(joins)
    return Reference(family, head, f"{prefix} {names[0]} {end}.", len(prefix), *names, state, held)


def _possessor(rng: random.Random, states: dict[str, list[str]]) -> tuple[str, str]:
    """A state and one thing that follows from it."""
    state = rng.choice(list(states))
    return state, rng.choice(states[state])


def seat(rng: random.Random, animal: str, thing: str, is_animal: bool) -> Reference:
    """The cat sat on the mat, it was tired, so the cat fell asleep."""
    state, end = _possessor(rng, ANIMAL_STATES if is_animal else SEAT_STATES)
    names = (animal, thing) if is_animal else (thing, animal)
    head = (
        f"The {animal} {rng.choice(SEAT_VERBS)} the {thing}"
        + rng.choice([", it was ", ", it was ", ". It was "])
        + state
    )
    if rng.random() < 0.15:
        return _finish(
            rng, "seat", head, [". The"], names, f"was {state}", f"was {state}", _held(animal, thing, names[0], state)
        )
    return _finish(rng, "seat", head, [", so the"], names, f"was {state}", end, _held(animal, thing, names[0], state))


def load(rng: random.Random, animal: str, thing: str, is_animal: bool) -> Reference:
    """The dog dropped the ball because it was heavy, so the ball stayed on the ground."""
    state, end = _possessor(rng, CARRIER_STATES if is_animal else LOAD_STATES)
    names = (animal, thing) if is_animal else (thing, animal)
    verb = rng.choice(LOAD_VERBS)
    too = "" if verb == "dropped" or rng.random() < 0.3 else "too "
    pronoun = "he" if animal == "boy" else "she" if animal == "girl" else "it"
    head = f"The {animal} {verb} the {thing} because {pronoun if is_animal else 'it'} was {too}{state}"
    return _finish(
        rng,
        "load",
        head,
        [", so the", ", so the", ". The"],
        names,
        f"was {too}{state}",
        end,
        _held(animal, thing, names[0], state),
    )


def fit(rng: random.Random, inner: str, outer: str, is_inner: bool) -> Reference:
    """The ball did not fit in the box because it was too big, so the ball was left outside."""
    state = rng.choice(BIG if is_inner else SMALL)
    end = rng.choice(["was left outside", "stayed on the table"] if is_inner else ["stayed empty", "was put away"])
    names = (inner, outer) if is_inner else (outer, inner)
    head = f"The {inner} did not fit {rng.choice(['in', 'into', 'inside'])} the {outer} because it was too {state}"
    return _finish(rng, "fit", head, [", so the"], names, f"was too {state}", end, _held(inner, outer, names[0], state))


def deed(rng: random.Random, first: str, second: str, is_first: bool) -> Reference:
    """The bear hugged the rabbit because it was sad. The rabbit felt better soon."""
    verb = rng.choice(list(DEEDS))
    clauses = DEEDS[verb][0 if is_first else 1]
    clause = rng.choice(list(clauses))
    names = (first, second) if is_first else (second, first)
    head = f"The {first} {verb} the {second} because it {clause}"
    return _finish(
        rng,
        "deed",
        head,
        [". The", ". The", ", and the"],
        names,
        clause,
        clauses[clause],
        _held(first, second, names[0], clause),
    )


def reference(rng: random.Random) -> Reference:
    """One sentence of any family, for training or held out."""
    kind, it_is_first = rng.random(), rng.random() < 0.5
    animal = rng.choice(ANIMALS)
    if kind < 0.35:
        return seat(rng, animal, rng.choice(SEATS), it_is_first)
    if kind < 0.6:
        return load(rng, rng.choice([animal] * 5 + ["boy", "girl"]), rng.choice(LOADS), it_is_first)
    if kind < 0.75:
        inner = rng.choice(CONTENTS)
        return fit(rng, inner, rng.choice([one for one in CONTAINERS if one != inner]), it_is_first)
    return deed(rng, animal, rng.choice([one for one in ANIMALS if one != animal]), it_is_first)


def references(rng: random.Random, held_out: bool = False) -> Iterator[Reference]:
    """An endless stream of sentences, all of them for training or all of them held out."""
    while True:
        one = reference(rng)
        if bool(one.held_out) == held_out:
            yield one
