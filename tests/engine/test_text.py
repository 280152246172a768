"""Stop strings over every way to cut the text; text of tokens over token borders."""

from __future__ import annotations

import pytest
from fake_model import FakeTokenizer
from hypothesis import given
from hypothesis import strategies as st

from lanewise.engine.text import StopFinder, TextStream

WORDS = st.text("abc", max_size=12)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=4)


def first_complete(text, stops):
    """Reads on letter by letter until some stop string ends: where the text is cut, None if never."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return min(starts)
    return None


@given(st.lists(WORDS, max_size=8), STOPS)
def test_stop_strings_over_any_split(pieces, stops):
    text = "".join(pieces)
    cut = first_complete(text, stops)
    finder, shown, fed = StopFinder(stops), "", ""
    for piece in pieces:
        shown += finder.push(piece)
        fed += piece
        assert text[: len(text) if cut is None else cut].startswith(shown)  # nothing of a stop string, ever
        if finder.found is None:
            held = fed[len(shown) :]
            assert held == max(
                (fed[i:] for i in range(len(fed) + 1) if any(s.startswith(fed[i:]) for s in stops) or i == len(fed)),
                key=len,
            )
    shown += "" if finder.found is not None else finder.flush()
    assert shown == (text if cut is None else text[:cut])
    assert (finder.found is None) == (cut is None)


def test_the_longest_of_those_that_end_together():
    finder = StopFinder(["c", "abc", "bc"])
    assert finder.push("xab") + finder.push("c") == "x"
    assert finder.found == "abc"
    assert finder.push("more") == ""


def test_half_characters_wait():
    tokenizer = FakeTokenizer()
    ids = tokenizer.encode("a天气", add_special_tokens=False)
    stream = TextStream(tokenizer, [0], [])
    assert [stream.push(i) for i in ids] == ["a", "", "天", "气"]
    assert stream.finish() == ""


def test_an_unfinished_character_reads_as_replacement():
    tokenizer = FakeTokenizer()
    stream = TextStream(tokenizer, [0], [])
    assert stream.push(tokenizer.encode("天", False)[0]) == ""
    assert stream.finish() == "\ufffd"
    assert stream.text == "\ufffd"


def test_a_character_that_begins_in_the_prompt():
    tokenizer = FakeTokenizer()
    first, last = tokenizer.encode("天", False)
    assert TextStream(tokenizer, [0, first], []).push(last) == "天"


class HoldingDecoder:
    """Like byte fallback: a run of digits is given when it ends; the first letter ever is given without its mark."""

    def __init__(self):
        self.run, self.any = "", False

    def push(self, i):
        c = chr(i)
        if c.isdigit():
            self.run += c
            return ""
        out, self.run = self.run + (c if self.any else c.lstrip("_")), ""
        self.any = True
        return out

    def extend(self, ids):
        return "".join([self.push(i) for i in ids])

    def flush(self):
        out, self.run = self.run, ""
        return out


class HoldingTokenizer:
    def decoder(self):
        return HoldingDecoder()


@pytest.mark.parametrize(
    ("prompt", "output", "text"),
    [("a12", "3b", "3b"), ("a", "_b", "_b"), ("", "_b", "b"), ("a12", "3", "3"), ("12", "b1", "b1"), ("12", "", "")],
)
def test_only_the_output_is_text(prompt, output, text):
    """What the decoder holds of the prompt is not shown, and what follows reads as it does after the prompt."""
    stream = TextStream(HoldingTokenizer(), [ord(c) for c in prompt], [])
    assert "".join(stream.push(ord(c)) for c in output) + stream.finish() == text


def test_without_a_tokenizer():
    stream = TextStream(None, [1, 2], [])
    assert stream.push(3) + stream.finish() == ""
