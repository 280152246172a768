# ruff: noqa: E501 - a sentence stays on one line, a list of words is one string
"""Short English stories: one hero, one friend, one plot, an end."""

from __future__ import annotations

import random
from typing import NamedTuple

from . import words
from .core import Slots, articles, expand
from .plots import PLOTS, Plot


class Story(NamedTuple):
    """A story and what it is about, so that a dialogue can ask for it."""

    text: str
    species: str
    name: str
    topic: str


OPENINGS = [
    "Once upon a time, there was {a_hero} named {name}.",
    "Once upon a time, there was {a_hero} named {name}. {He} lived {place}.",
    "Once upon a time, {place}, there lived {a_hero} named {name}.",
    "Once upon a time, {a_hero} named {name} lived {place}.",
    "Once upon a time, there lived {a_hero} {place}. {His} name was {name}.",
]
OTHER_OPENINGS = [
    "Long ago, {place}, there lived {a_hero} named {name}.",
    "There was once {a_hero} named {name}, who lived {place}.",
    "{Name} was {a_hero} who lived {place}.",
    "{Place}, there lived {a_hero} named {name}.",
]
ENDINGS = ["", "", "", " The end."]


def _pronouns(girl: bool, prefix: str = "") -> dict[str, str]:
    """The pronouns of one character, under the prefix of its slots."""
    he, him, his = ("she", "her", "her") if girl else ("he", "him", "his")
    return {f"{prefix}he": he, f"{prefix}him": him, f"{prefix}his": his}


def _pick_hero(rng: random.Random, species: str | None) -> tuple[str, str, str, bool]:
    """Species, home, food and gender of a hero."""
    if species is None:
        species = rng.choice(["girl", "boy"]) if rng.random() < 0.15 else rng.choice(list(words.ANIMALS))
    home, food = {**words.ANIMALS, **words.CHILDREN}[species]
    girl = species == "girl" or (species != "boy" and rng.random() < 0.5)
    return species, home, food, girl


def _slots(rng: random.Random, species: str | None, name: str | None) -> tuple[dict[str, object], str, str]:
    """All slots of one story; also the species and the name of its hero."""
    species, home, food, girl = _pick_hero(rng, species)
    if name is not None:
        girl = name in words.GIRLS
    name = name or rng.choice(words.GIRLS if girl else words.BOYS)
    helper = rng.choice([one for one in words.HELPERS if one != species])
    helper_girl = rng.random() < 0.5
    helper_name = rng.choice([one for one in (words.GIRLS if helper_girl else words.BOYS) if one != name])
    adjective = rng.choice(words.HERO_ADJECTIVES)
    toy, colour = rng.choice(words.TOYS), rng.choice(words.COLOURS)
    skill, skilling, fail, success = rng.choice(words.SKILLS)
    slots: dict[str, object] = {
        **_pronouns(girl),
        **_pronouns(helper_girl, "f"),
        "name": name,
        "friendname": helper_name,
        "home": home,
        "food": food,
        "toy": toy,
        "colour": colour,
        "hero": lambda: rng.choice([name, name, f"the {species}", f"the little {species}"]),
        "friend": lambda: rng.choice([helper_name, helper_name, f"the {helper}"]),
        "a_hero": articles(f"a {adjective} {species}"),
        "intro": articles(f"a {rng.choice(words.HELPER_ADJECTIVES)} {helper} named {helper_name}"),
        "thing": f"{colour} {toy}",
        "a_thing": articles(f"a {colour} {toy}"),
        "a_gift": articles(f"a {rng.choice(words.GIFTS)}"),
        "plant": rng.choice(words.FLOWERS),
        "place": rng.choice(words.PLACES),
        "day": rng.choice(words.DAYS),
        "spot": rng.choice(words.SPOTS),
        "trap": rng.choice(words.TRAPS),
        "skill": skill,
        "skilling": skilling,
        "other": rng.choice([one for one in words.ANIMALS if one not in (species, helper)]),
    }
    slots["fail"], slots["success"] = expand(rng, fail, slots), expand(rng, success, slots)  # type: ignore[arg-type]
    return slots, species, name


def story(rng: random.Random, species: str | None = None, name: str | None = None, plot: Plot | None = None) -> Story:
    """One story, of the given hero and plot or of any."""
    slots_any, species, name = _slots(rng, species, name)
    slots: Slots = slots_any  # type: ignore[assignment]
    plot = plot or rng.choice(PLOTS)
    parts = [rng.choice(OPENINGS if rng.random() < 0.85 else OTHER_OPENINGS)]
    if rng.random() < 0.5:
        parts.append(rng.choice(words.TRAITS))
    if rng.random() < 0.2:
        parts.append(rng.choice(words.WEATHER))
    parts += [*plot.steps, plot.moral]
    text = expand(rng, " ".join(parts), slots) + rng.choice(ENDINGS)
    return Story(text, species, name, expand(rng, plot.topic, slots))


EVERYDAY = [
    "It [is|was] a {day} [day|morning|afternoon]. {weather}",
    "{weather} {Name} [opened the window and smiled|put on a warm coat and went outside|stayed at home and read a book].",
    "The {one} lives in a {homeish} and [eats|loves] {food}.",
    "[Today|This morning|Yesterday], the {one} [found|saw|lost] {a_thing} {spot}.",
    "The {one} and the {two} [are good friends|played together all day|walked home together|shared {food} for lunch].",
    "{Name} [has|found|made] {a_thing}. {He} [keeps it in a box|shows it to everyone|is very proud of it].",
    "[In spring, the flowers open and the birds build their nests.|In summer, the days are long and warm.|In autumn, the leaves turn red and gold.|In winter, snow covers the hills.]",
    "The [sky is blue|sun is shining|rain is falling|wind is strong|snow is deep] [today|this morning], and {name} is [happy|at home|outside].",
    "{Name} is a {one} who lives {place}. {He} [likes|loves] {food}.",
]


def everyday(rng: random.Random) -> str:
    """One or two plain sentences about a day, an animal or a thing."""
    girl = rng.random() < 0.5
    one, two = rng.sample(list(words.ANIMALS), 2)
    home, food = words.ANIMALS[one]
    slots: dict[str, str] = {
        **_pronouns(girl),
        "name": rng.choice(words.GIRLS if girl else words.BOYS),
        "one": one,
        "two": two,
        "homeish": home,
        "food": food,
        "day": rng.choice(words.DAYS),
        "weather": rng.choice(words.WEATHER),
        "a_thing": articles(f"a {rng.choice(words.COLOURS)} {rng.choice(words.TOYS)}"),
        "spot": rng.choice(words.SPOTS),
        "place": rng.choice(words.PLACES),
    }
    return expand(rng, rng.choice(EVERYDAY), slots)
