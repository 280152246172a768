"""What comes back from a generation."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Counts of tokens.

    prompt_tokens      of the prompt, as the model saw it
    completion_tokens  generated, an end token included
    cached_tokens      of the prompt that were already in the cache and did not run again
    truncated_tokens   cut off the prompt, only where truncate= was asked for
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    truncated_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Timings:
    """Seconds, and rates from them.

    prefill_seconds      from the first step that held a row of the prompt to the first token
    decode_seconds       from the first token to the last
    time_to_first_token  from the call to the first token, waiting included
    prefill_tokens       tokens of the prompt that ran
    decode_tokens        tokens after the first
    """

    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    time_to_first_token: float = 0.0
    prefill_tokens: int = 0
    decode_tokens: int = 0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Tokens of the prompt per second; 0.0 where nothing ran."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds > 0 else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Tokens after the first per second; 0.0 where there are none."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds > 0 else 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """The natural log-probability of one generated token under the model's own logits, and of the likeliest ones.

    top maps token id -> log-probability, the most likely first; empty for logprobs=0.
    """

    token_id: int
    logprob: float
    top: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One finished generation. str(result) is the text.

    text           the text, without end tokens, cut before a stop string
    token_ids      every generated id, an end token and the tokens of a stop string included
    finish_reason  "stop" (an end token or a stop string), "length" (max_tokens) or "cancelled" (cancel=, timeout=)
    logprobs       one TokenLogprob per token, None unless asked for
    candidates     for n > 1 all n results, this one first; else this one alone
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    logprobs: list[TokenLogprob] | None = None
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    others: tuple[Result, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.text

    @property
    def candidates(self) -> tuple[Result, ...]:
        """All n samples, this one first."""
        return (self, *self.others)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, for JSON."""
        out = dataclasses.asdict(dataclasses.replace(self, others=()))
        del out["others"]
        out["usage"]["total_tokens"] = self.usage.total_tokens
        out["timings"]["prefill_tokens_per_second"] = self.timings.prefill_tokens_per_second
        out["timings"]["decode_tokens_per_second"] = self.timings.decode_tokens_per_second
        if self.others:
            out["candidates"] = [dataclasses.replace(r, others=()).to_dict() for r in self.candidates]
        return out


@dataclass(frozen=True)
class Chunk:
    """One token of a stream.

    text           new text, "" while a character or a possible stop string is incomplete
    token_id       None only where a request ends between tokens (cancelled)
    logprob        of the token, None unless asked for; top_logprobs: id -> log-probability, the likeliest first
    index          which of the n samples
    finish_reason  on the last chunk of each sample, with its `result`
    """

    text: str
    token_id: int | None
    logprob: float | None = None
    top_logprobs: dict[int, float] | None = None
    index: int = 0
    finish_reason: str | None = None
    result: Result | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Score:
    """How likely the model finds a text.

    token_ids  the n ids
    logprobs   n natural log-probabilities, each of a token after those before it; the first is None
    sum        of the logprobs
    """

    token_ids: list[int]
    logprobs: list[float | None]
    sum: float

    @property
    def perplexity(self) -> float:
        """exp of minus the mean log-probability; NaN for a single token."""
        count = len(self.logprobs) - 1
        return math.exp(-self.sum / count) if count > 0 else math.nan
