"""Arrays of strings in a GGUF file: whichever way they are found, they are the same ones and errors are seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.make import ARR, I32, STR, array, plain, value
from lanewise.errors import LoadError
from lanewise.model.gguf import open_gguf
from lanewise.model.gguf_tokenizer import _pairs

# Lengths whose bytes hold zeros, strings that look like lengths, and what has none of either.
ODD = ["", "\0", "a\0", "\0\0\0\0\0\0a", "\x05\0\0\0\0\0\0\0", "x" * 255, "x" * 256, "x" * 257, "ä" * 128, "x" * 65536]


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), min_size=1, max_size=9),
    odd=st.dictionaries(st.integers(0, 299), st.sampled_from(ODD), max_size=3), count=st.integers(1, 300),
)  # fmt: skip
def test_strings_are_found_at_once_or_one_by_one(
    texts: list[str], odd: dict[int, str], count: int, tmp_path_factory: Any
) -> None:
    wanted = [odd.get(i, texts[i % len(texts)]) for i in range(count)]
    made = plain()
    made.pairs += [("a.texts", value(ARR, array(STR, wanted))), ("b.after", value(I32, 7))]
    path = tmp_path_factory.mktemp("strings") / "m.gguf"
    path.write_bytes(made.build())
    with open_gguf(path) as file:
        found, text = file.metadata["a.texts"], "".join(f"{each}\0" for each in wanted).encode()
        assert (found.strings(), file.metadata["b.after"]) == (wanted, 7)
        assert found.joined() in ((None,) if text.count(0) > count else (None, text))
        assert found.joined() == text or any(not each or "\0" in each for each in wanted)


@settings(max_examples=60, deadline=None)
@given(merges=st.lists(st.sampled_from(["a b", "é c", "a", "a b c", " b", "a ", "", "a\0b c"]), min_size=1, max_size=4))
def test_merges_are_cut_at_their_spaces(merges: list[str], tmp_path_factory: Any) -> None:
    made = plain()
    made.pairs += [("a.texts", value(ARR, array(STR, merges)))]
    path = tmp_path_factory.mktemp("merges") / "m.gguf"
    path.write_bytes(made.build())
    with open_gguf(path) as file:
        pairs = _pairs(file.metadata["a.texts"])
        assert list(pairs) == [tuple(merge.split(" ")) for merge in merges]
        assert [pairs[i] for i in range(len(pairs))] == list(pairs)


def test_an_array_of_strings_that_ends_with_the_file(tmp_path: Path) -> None:
    made = plain()
    made.pairs += [("a.texts", value(ARR, array(STR, [f"text {i}" for i in range(1000)])))]
    data = made.build()
    (tmp_path / "m.gguf").write_bytes(data[: data.index(b"text 901") - 8])
    with pytest.raises(LoadError, match="string 901 of 1000 begins behind the end"):
        open_gguf(tmp_path / "m.gguf")


def test_many_strings_are_checked(tmp_path: Path) -> None:
    """An error behind more strings than are looked at one by one."""
    texts: list[Any] = [f"text {i}" for i in range(1000)]
    for name, wrong, said in [
        ("utf8", b"\xff", "string 700 is not UTF-8"), ("long", b"", "string 700 of 1000 has 1152921504606846976 bytes")
    ]:  # fmt: skip
        made = plain()
        made.pairs += [("a.texts", value(ARR, array(STR, texts)))]
        data = made.build()
        at = data.index(b"text 700")
        data = data[:at] + wrong + data[at + len(wrong) :]
        if not wrong:
            data = data[: at - 8] + (2**60).to_bytes(8, "little") + data[at:]
        (tmp_path / name).write_bytes(data)
        with pytest.raises(LoadError, match=said), open_gguf(tmp_path / name) as file:
            file.metadata["a.texts"].strings()
