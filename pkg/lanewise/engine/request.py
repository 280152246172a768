"""Request: one sequence that is being generated, from its prompt to its Result."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from ..results import Chunk, Result, Timings, TokenLogprob, Usage
from .pages import PageTable
from .params import Sampling
from .sampler import Sampler, Softmax
from .text import TextStream

clock = time.perf_counter


class Request:
    """Ids, sampling state, text and pages of one sequence.

    ids           int32[count]: prompt and output; the first table.length of them are in the cache
    table         its pages; given by a caller who keeps it (keep=True), or new
    leader        the sample whose prompt this one waits to share (n > 1), None once it runs by itself
    finish_reason None while it runs
    """

    def __init__(
        self,
        prompt: NDArray[np.int32],
        sampling: Sampling,
        *,
        softmax: Softmax,
        tokenizer: object | None,
        table: PageTable,
        keep: bool = False,
        truncated: int = 0,
        index: int = 0,
        leader: Request | None = None,
    ) -> None:
        self.sampling = sampling
        self.table = table
        self.keep = keep
        self.index = index
        self.leader = leader
        self.followers: list[Request] = []
        self.prompt_length = int(prompt.size)
        self.cached = table.length
        self.truncated = truncated
        self.buffer = np.empty(prompt.size + sampling.max_tokens, np.int32)
        self.buffer[: prompt.size] = prompt
        self.count = self.prompt_length
        self.sampler = Sampler(sampling, softmax, prompt, index)
        self.stream = TextStream(tokenizer, prompt[-64:].tolist(), sampling.stop)
        self.logprobs: list[TokenLogprob] | None = None if sampling.logprobs is None else []
        self.finish_reason: str | None = None
        self.submitted = clock()
        self.first_step = self.first_token = self.last_token = 0.0
        if leader is not None:
            leader.followers.append(self)

    @property
    def ids(self) -> NDArray[np.int32]:
        """int32[count], prompt and output, read only."""
        view = self.buffer[: self.count]
        view.flags.writeable = False
        return view

    @property
    def pending(self) -> int:
        """Tokens that are not in the cache yet: 1 while decoding."""
        return self.count - self.table.length

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return self.count - self.prompt_length

    @property
    def ready(self) -> bool:
        """May take part in a step."""
        return self.finish_reason is None and self.leader is None

    def next_tokens(self, rows: int) -> NDArray[np.int32]:
        """int32[rows]: the next tokens for the cache."""
        start = self.table.length
        return self.buffer[start : start + rows]

    def expired(self, now: float) -> bool:
        """Cancelled by its event, or out of time."""
        cancel, timeout = self.sampling.cancel, self.sampling.timeout
        return (cancel is not None and cancel.is_set()) or (timeout is not None and now - self.submitted >= timeout)

    def accept(self, logits: NDArray[np.float32]) -> Chunk:
        """Chooses the next token from float32[vocabulary] logits of the last one, and says what is new."""
        choice = self.sampler.choose(logits, self.ids)
        sampling, token = self.sampling, choice.token
        self.buffer[self.count] = token
        self.count += 1
        self.last_token = clock()
        if self.generated == 1:
            self.first_token = self.last_token
        if choice.logprob is not None and self.logprobs is not None:
            self.logprobs.append(choice.logprob)
        text = ""
        ended = token in sampling.end_ids
        if not ended:
            text = self.stream.push(token, search=self.generated >= sampling.min_tokens)
        if ended or self.stream.stopped:
            return self.finish("stop", text, token)
        if self.generated >= sampling.max_tokens:
            return self.finish("length", text, token)
        return self._chunk(text, token)

    def finish(self, reason: str, text: str = "", token: int | None = None) -> Chunk:
        """Ends the request; the chunk carries the rest of the text and the Result."""
        text += self.stream.finish()
        self.finish_reason = "stop" if self.stream.stopped else reason
        return self._chunk(text, token)

    def result(self) -> Result:
        """What it came to."""
        first, last = self.first_token, self.last_token
        ran = self.prompt_length - self.cached
        return Result(
            text=self.stream.text,
            token_ids=self.buffer[self.prompt_length : self.count].tolist(),
            finish_reason=self.finish_reason or "cancelled",
            logprobs=self.logprobs,
            usage=Usage(self.prompt_length, self.generated, self.cached, self.truncated),
            timings=Timings(
                prefill_seconds=first - self.first_step if first else 0.0,
                decode_seconds=last - first,
                time_to_first_token=first - self.submitted if first else 0.0,
                prefill_tokens=ran if first else 0,
                decode_tokens=max(0, self.generated - 1),
            ),
        )

    def _chunk(self, text: str, token: int | None) -> Chunk:
        logprob = self.logprobs[-1] if self.logprobs and token is not None else None
        return Chunk(
            text=text,
            token_id=token,
            logprob=None if logprob is None else logprob.logprob,
            top_logprobs=None if logprob is None else logprob.top,
            index=self.index,
            finish_reason=self.finish_reason,
            result=self.result() if self.finish_reason else None,
        )
