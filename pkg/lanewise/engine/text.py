"""From ids to text as it may be shown: whole characters only, and nothing of a stop string, not even its beginning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol


class StreamDecoder(Protocol):
    """What decodes one id at a time (lanewise.tokenizer.Decoder)."""

    def push(self, i: int) -> str: ...
    def extend(self, ids: Iterable[int]) -> str: ...
    def flush(self) -> str: ...


class StopFinder:
    """Finds the first stop string to be complete, however the text is cut into pieces.

    Of several that end at the same character the longest counts. `push` gives text that can no longer be part of one;
    `found` says which was found; the text before it has then been given, and nothing follows.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self.stops = tuple(stops)
        self.found: str | None = None
        self._held = ""

    def push(self, text: str) -> str:
        """New text in, text to show out."""
        if not self.stops or self.found is not None:
            return text if self.found is None else ""
        text = self._held + text
        ends = [(at + len(stop), at, stop) for stop in self.stops if (at := text.find(stop)) >= 0]
        if ends:
            _, at, self.found = min(ends)
            self._held = ""
            return text[:at]
        keep = self._possible(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """At the end of the text: what was held back after all."""
        held, self._held = self._held, ""
        return held

    def _possible(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), max(map(len, self.stops)) - 1)
        for n in range(longest, 0, -1):
            end = text[-n:]
            if any(stop.startswith(end) for stop in self.stops):
                return n
        return 0


CONTEXT = 64  # ids of the prompt that the decoder sees, so that the output's first space or byte reads right


class TextStream:
    """The text of one request, token by token. Without a tokenizer every piece is empty."""

    def __init__(self, tokenizer: object | None, prompt: Sequence[int], stops: Iterable[str]) -> None:
        self.finder = StopFinder(stops)
        self.pieces: list[str] = []
        self._decoder: StreamDecoder | None = None
        self._skip = 0
        if tokenizer is not None:
            tail = [int(i) for i in prompt[-CONTEXT:]]
            self._decoder = tokenizer.decoder()  # type: ignore[attr-defined]
            self._decoder.extend(tail)
            # A run of byte tokens at the prompt's end is still held by the decoder: it is not the output's text.
            other: StreamDecoder = tokenizer.decoder()  # type: ignore[attr-defined]
            other.extend(tail)
            self._skip = len(other.flush().rstrip("\ufffd"))

    @property
    def text(self) -> str:
        """All that was given so far."""
        return "".join(self.pieces)

    @property
    def stopped(self) -> bool:
        """A stop string was found."""
        return self.finder.found is not None

    def push(self, token: int, search: bool = True) -> str:
        """The text that may be shown after `token`; search=False does not look for stop strings yet."""
        return self._give(self._decoder.push(token) if self._decoder else "", search)

    def finish(self) -> str:
        """The last piece: unfinished characters, and what might have been a stop string."""
        rest = self._give(self._decoder.flush() if self._decoder else "", True)
        if not self.stopped:
            held = self.finder.flush()
            self.pieces.append(held)
            rest += held
        return rest

    def _give(self, text: str, search: bool) -> str:
        if self._skip and text:
            text, self._skip = text[self._skip :], max(0, self._skip - len(text))
        if search:
            text = self.finder.push(text)
        self.pieces.append(text)
        return text
