# ruff: noqa: E501 - a sentence stays on one line, a list of words is one string
"""Short dialogues in the chat format of the built-in model."""

from __future__ import annotations

import random

from . import chinese, english, references, words
from .core import articles, expand

USER, ASSISTANT, SYSTEM, END = "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"
Turn = tuple[str, str]

SYSTEMS = [
    "You are a helpful assistant.",
    "You are a friendly storyteller.",
    "Answer briefly.",
    "Be kind.",
    "You are a helpful assistant. Answer in one sentence.",
]
SMALL_TALK: list[tuple[str, str]] = [
    (
        "[Hello|Hi|Hey|Good morning|Good evening|Hello there][!|.|]",
        "Hello! [Would you like to hear a story?|How can I help you?|It is nice to meet you.]",
    ),
    (
        "[How are you|How are you doing|How are you today]?",
        "I am [fine|well], thank you! [And you?|Would you like to hear a story?]",
    ),
    (
        "[Who are you|What are you|What is your name|Are you a person]?",
        "I am a very small language model. I [can tell|like to tell] short stories.",
    ),
    (
        "[What can you do|How can you help me|Can you help me]?",
        "I can tell short stories and say a few words about the weather. I am very small.",
    ),
    ("[Thank you|Thanks|Thank you very much][!|.|]", "You are welcome!"),
    ("[Goodbye|Bye|See you later|Good night][!|.|]", "Goodbye! [See you soon.|Have a nice day!]"),
    (
        "[What is|How is] the weather [like |][today|now|outside]?",
        "I cannot look outside, but I hope that the sun is shining.",
    ),
    (
        "[I am|I feel] [sad|tired|lonely|bored].",
        "I am sorry to hear that. [Would you like to hear a story?|A story may help.]",
    ),
    ("[I am|I feel] [happy|great|fine].", "I am glad to hear that!"),
    ("[你好|您好|早上好|晚上好][！|。|]", "你好！[很高兴见到你。|很高兴认识你。]"),
    ("[你是谁|你叫什么名字|你是什么]？", "我是一个很小的语言模型。"),
    ("[你会做什么|你能做什么]？", "我会讲小故事，也会说说天气。"),
    ("[谢谢|谢谢你|多谢][！|。|]", "不客气！"),
    ("[再见|明天见|晚安][！|。|]", "[再见！|再见，祝你开心！]"),
    ("[你好吗|你怎么样]？", "我很好，谢谢！"),
]
UNKNOWN = [
    "What is the [capital|name|king|language] of [France|China|Germany|Brazil|the town]?",
    "How [far|big|old|heavy] is the [sun|moon|earth|sea|sky]?",
    "What is [one|two|three|four|five|{n}] [plus|times|minus] [one|two|three|seven|{n}]?",
    "Who [wrote|painted|made|invented] the [book|picture|telephone|first computer]?",
    "[Can you write|Write] [a program|some code|a letter|an essay][ for me|| in C| in Python]{q}",
    "Why is the [sky blue|grass green|sea salty]?",
    "[Explain|Tell me about|Describe] [physics|computers|history|music|the war|the law|trains|money].",
    "What do you think [of|about] [music|money|people|computers]?",
    "How do [I|you] [cook rice|fix a car|learn English|write a book|find a job]?",
]


def _name_story(rng: random.Random) -> Turn:
    """Ask for a story, with or without a hero, a name or a topic."""
    tell = rng.choice(["Tell me", "Please tell me", "Can you tell me", "Write", "I would like to hear"])
    mark = "?" if tell.startswith("Can") else "."
    made = english.story(rng)
    kind = rng.random()
    if kind < 0.2:
        asked = f"{tell} a {rng.choice(['', '', 'short ', 'nice '])}story{mark}"
    elif kind < 0.6:
        asked = f"{tell} a {rng.choice(['', '', 'short '])}story about a {rng.choice(['', '', 'little '])}{made.species}{mark}"
    elif kind < 0.8:
        asked = f"{tell} a story about a {made.species} named {made.name}{mark}"
    else:
        asked = f"{tell} a story about a {made.species} who {made.topic}{mark}"
    return articles(asked), made.text


def _who(rng: random.Random) -> Turn:
    """A sentence with *it*, and the question what *it* was."""
    one = next(references.references(rng))
    sentence = one.text if rng.random() < 0.2 else one.head + "."
    what = "Who" if one.right in (*references.ANIMALS, "boy", "girl") else "What"
    return f"{sentence} {what} {one.state}?", f"The {one.right} {one.state}."


def _weather_chinese(rng: random.Random) -> Turn:
    """Ask about the weather in Chinese."""
    if rng.random() < 0.7:
        return expand(rng, "今天[天气|的天气|天气][怎么样|如何|好吗|怎么样]？", {}), chinese.FINE
    if rng.random() < 0.5:
        return expand(rng, "[明天|周末|晚上][会下雨|会下雪|冷]吗？", {}), "我不知道，不过出门带上伞总没错。"
    return expand(rng, "[请|][说|写]一句[话|关于生活的话|中文]。", {}), chinese.life(rng)


def _small_talk(rng: random.Random) -> Turn:
    """A greeting, a thank-you, a question about the model."""
    asked, said = rng.choice(SMALL_TALK)
    return expand(rng, asked, {}), expand(rng, said, {})


def _unknown(rng: random.Random) -> Turn:
    """A question that is beyond the model, and the answer that says so."""
    asked = expand(rng, rng.choice(UNKNOWN), {"n": str(rng.randrange(100)), "q": rng.choice(["?", "."])})
    return asked, expand(
        rng, "I am too small to know that. [I can tell you a story instead.|Would you like to hear a story?]", {}
    )


def _animal_fact(rng: random.Random) -> Turn:
    """What an animal of the stories likes and where it lives."""
    animal = rng.choice(list(words.ANIMALS))
    home, food = words.ANIMALS[animal]
    if rng.random() < 0.5:
        return articles(f"What does a {animal} like to eat?"), articles(f"In my stories, a {animal} likes {food}.")
    return articles(f"Where does a {animal} live?"), articles(f"In my stories, a {animal} lives in a {home}.")


def turns(rng: random.Random) -> list[Turn]:
    """One to four exchanges; at most one of them is a story."""
    kinds = [_small_talk, _who, _weather_chinese, _unknown, _animal_fact]
    weights = [30, 40, 14, 10, 6]
    made = [rng.choices(kinds, weights)[0](rng) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    if rng.random() < 0.2:
        made = made[:1] if rng.random() < 0.3 else []
        made.append(_name_story(rng))
        if rng.random() < 0.2:
            made.append(("Thank you!", "You are welcome!"))
    return made


def render(made: list[Turn], system: str = "") -> str:
    """The text of a dialogue as the chat template writes it, without <|bos|> and the last <|end|>."""
    head = f"{SYSTEM}{system}{END}" if system else ""
    return head + END.join(f"{USER}{asked}{END}{ASSISTANT}{said}" for asked, said in made)


def dialogue(rng: random.Random) -> str:
    """One dialogue as a training document."""
    return render(turns(rng), rng.choice(SYSTEMS) if rng.random() < 0.12 else "")
