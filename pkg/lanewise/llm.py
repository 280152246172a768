"""LLM: a loaded model. load, generate, stream, chat, session; the two phases by name; scores and logits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from types import TracebackType
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from .engine.batch import Work
from .engine.pages import PageTable
from .engine.params import SamplingParams, check_names, default_max_tokens, resolve
from .engine.request import Request
from .engine.sampler import log_sum_exp
from .engine.scheduler import Engine, Progress, Scheduler
from .errors import ContextError, LanewiseError
from .memory import empty
from .model.spec import STEP_ROWS
from .results import Chunk, Result, Score
from .sequence import Sequence, check_ids
from .session import ChatSession

Prompt = str | Seq[int] | NDArray[np.integer[Any]]
Messages = str | Seq[Mapping[str, Any]]
OnProgress = Callable[[Progress], None]
Truncate = Literal["left", "right"]

LOGITS_BYTES = 32 << 20  # score() holds about so many bytes of logits at once


class LLM:
    """A model in memory, for any number of threads: each call has its own pages, their steps take turns.

    source        a folder, "owner/name" of a cached download, or "builtin", the small model that lanewise ships
    dtype         "float32" | "bfloat16": what float weights are computed in; "auto" as stored
    quantize      "q4" | "q4m" | "q6" | "q8" | "Q4_K_M" and its like | a GGUF type: float matrices become what such
                  blocks hold; None: as stored
    kv_dtype      "float32" | "bfloat16" keys and values; "auto" as computed
    numerics      "fast" | "exact" (bfloat16 widened: the same bits on every CPU)
    context       positions at most; None: the model's own limit. Memory grows as it is used
    threads, isa  None: the best of what this process may use
    revision      branch, tag or commit of an owner/name; None: main
    on_progress   called while weights load
    memory_limit  bytes at most for weights and cache; None: no limit
    cache         a folder, or True for the usual one: packed weights are kept there and mapped at the next load;
                  None: as the environment variable LANEWISE_CACHE says (0, 1 or a folder), else not

    LoadError where the model cannot be loaded. Use as a context manager, or close() it.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] = "builtin",
        *,
        dtype: str = "auto",
        quantize: str | None = None,
        kv_dtype: str = "auto",
        numerics: str = "fast",
        context: int | None = None,
        threads: int | None = None,
        isa: str | None = None,
        revision: str | None = None,
        on_progress: Callable[..., None] | None = None,
        memory_limit: int | None = None,
        cache: bool | str | os.PathLike[str] | None = None,
    ) -> None:
        from .model.model import Model

        model = Model.load(
            source, dtype=dtype, quantize=quantize, kv_dtype=kv_dtype, numerics=numerics, context=context,
            threads=threads, isa=isa, revision=revision, on_progress=on_progress, memory_limit=memory_limit,
            cache=cache,
        )  # fmt: skip
        self._start(model)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str] = "builtin", **options: Any) -> LLM:
        """The same as LLM(source, ...)."""
        return cls(source, **options)

    @classmethod
    def from_model(cls, model: Any) -> LLM:
        """An LLM around a model.model.Model, or anything with its methods; closing the LLM closes the model."""
        llm = cls.__new__(cls)
        llm._start(model)
        return llm

    def _start(self, model: Any) -> None:
        self._engine = Engine(model)
        self._model = model

    # ---- text ----------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: Prompt | Seq[Prompt],
        params: SamplingParams | None = None,
        *,
        truncate: Truncate | None = None,
        progress: bool | OnProgress = False,
        **keywords: Any,
    ) -> Any:
        """Continues a prompt: text, token ids, or a list of these, which run as one batch. -> Result, or a list.

        Keywords are those of SamplingParams and override `params`. In a batch every prompt gives, bit for bit, what it
        gives alone. ContextError if prompt and max_tokens need more than the context (without max_tokens it is bounded
        by what is left); truncate="left" or "right" instead drops tokens from that end of the prompt, keeping the first
        one if it is the begin token, and usage.truncated_tokens says how many. progress=True shows a bar; a function
        is called with a Progress after every step.
        """
        params = _merge(params, keywords)
        many = not isinstance(prompt, str | np.ndarray) and _is_batch(prompt)
        prompts = cast(list[Prompt], list(cast(Seq[Prompt], prompt))) if many else [cast(Prompt, prompt)]
        groups = [self._requests(self._encode(each), params, truncate) for each in prompts]
        self._run(Scheduler(self._engine, [r for group in groups for r in group]), progress)
        results = [_gather(group) for group in groups]
        return results if many else results[0]

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        truncate: Truncate | None = None,
        progress: OnProgress | None = None,
        **keywords: Any,
    ) -> Iterator[Chunk]:
        """Like generate for one prompt, as an iterator of Chunk, one per token; the last has `result`.

        Closing the iterator, or dropping it, ends the generation and frees its pages.
        """
        requests = self._requests(self._encode(prompt), _merge(params, keywords), truncate)
        return iter(Scheduler(self._engine, requests, progress))

    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        tools: Seq[Mapping[str, Any]] | None = None,
        truncate: Truncate | None = None,
        progress: bool | OnProgress = False,
        **keywords: Any,
    ) -> Result:
        """The model's answer to messages ({"role", "content"}), or to one string from the user. See generate."""
        params = _merge(params, keywords)
        group = self._requests(self._encode_chat(messages, tools), params, truncate)
        self._run(Scheduler(self._engine, group), progress)
        return _gather(group)

    def stream_chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        tools: Seq[Mapping[str, Any]] | None = None,
        truncate: Truncate | None = None,
        progress: OnProgress | None = None,
        **keywords: Any,
    ) -> Iterator[Chunk]:
        """Like chat, as an iterator of Chunk. See stream."""
        requests = self._requests(self._encode_chat(messages, tools), _merge(params, keywords), truncate)
        return iter(Scheduler(self._engine, requests, progress))

    def session(
        self,
        system: str | None = None,
        *,
        params: SamplingParams | None = None,
        plain: bool = False,
        **keywords: Any,
    ) -> ChatSession:
        """A conversation that keeps its cache between turns. params and keywords are the defaults of every turn.

        plain=True needs no chat template: each message is text that the model continues.
        """
        self._engine.check_open()
        return ChatSession(self, system, plain=plain, params=_merge(params, keywords))

    # ---- the two phases by name ------------------------------------------------------------------------------------

    def prefill(self, prompt: Prompt) -> Sequence:
        """Runs a prompt and keeps it: a Sequence with the logits after its last token. An empty prompt is allowed."""
        ids = self._encode(prompt, empty=True)
        self._check_context(ids.size)
        sequence = Sequence(self._engine, self.context, self._table(), [])
        if ids.size:
            try:
                sequence.extend(ids)
            except BaseException:
                sequence.close()
                raise
        return sequence

    def logits(self, prompt: Prompt) -> NDArray[np.float32]:
        """float32[n, vocabulary]: row i is about the token after token i."""
        ids = self._encode(prompt)
        out = empty((ids.size, self._model.vocabulary))
        for start, rows in self._all_logits(ids, STEP_ROWS):
            out[start : start + len(rows)] = rows
        return out

    def score(self, prompt: Prompt) -> Score:
        """The log-probability of every token of a text or of ids after those before it, and their perplexity."""
        ids = self._encode(prompt)
        logprobs: list[float | None] = [None]
        step = max(1, min(STEP_ROWS, LOGITS_BYTES // (4 * self._model.vocabulary)))
        for start, rows in self._all_logits(ids[:-1], step):
            for i, row in enumerate(rows, start + 1):
                logprobs.append(float(row[ids[i]]) - log_sum_exp(row, self._engine.softmax))
        return Score(ids.tolist(), logprobs, sum(x for x in logprobs if x is not None))

    # ---- the tokenizer ---------------------------------------------------------------------------------------------

    def tokenize(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Text -> token ids."""
        ids: list[int] = self._tokenizer().encode(text, add_special_tokens)
        return ids

    def detokenize(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Token ids -> text."""
        text: str = self._tokenizer().decode([int(i) for i in ids], skip_special_tokens)
        return text

    def apply_chat_template(
        self,
        messages: Messages,
        tools: Seq[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt text for messages; tokenize it with add_special_tokens=False. TemplateError without a template."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        text: str = self._tokenizer().apply_chat_template(messages, tools, add_generation_prompt, **variables)
        return text

    # ---- about it --------------------------------------------------------------------------------------------------

    @property
    def context(self) -> int:
        """The largest number of positions of one sequence."""
        return int(self._model.context)

    @property
    def vocabulary(self) -> int:
        """How many logits a row has."""
        return int(self._model.vocabulary)

    @property
    def has_chat_template(self) -> bool:
        """Whether chat() can work."""
        return bool(self._model.tokenizer is not None and self._model.tokenizer.has_chat_template)

    def info(self) -> dict[str, Any]:
        """What runs: architecture, parameters, formats, threads, kernel table, pages in use."""
        with self._engine.lock:
            self._engine.check_open()
            pool = self._engine.pool
            return {**self._model.info(), "cache_pages": len(pool), "cache_pages_used": pool.used}

    def memory_plan(self, batch: int = 1, context: int | None = None) -> dict[str, Any]:
        """Bytes of weights, of the cache for `batch` sequences of `context` tokens, and in all."""
        self._engine.check_open()
        plan: dict[str, Any] = self._model.memory_plan(batch=batch, context=context)
        return plan

    def close(self) -> None:
        """Frees weights and cache; every later call is a LanewiseError. Closing twice is fine."""
        self._engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # ---- inside ----------------------------------------------------------------------------------------------------

    def _tokenizer(self) -> Any:
        self._engine.check_open()
        if self._model.tokenizer is None:
            raise LanewiseError("this model came without a tokenizer: use token ids")
        return self._model.tokenizer

    def _encode(self, prompt: Prompt, empty: bool = False) -> NDArray[np.int32]:
        """int32[n] ids; an empty prompt becomes the begin token, or an error without one."""
        self._engine.check_open()
        if isinstance(prompt, str):
            prompt = self._tokenizer().encode(prompt, True)
        ids = check_ids(cast(Iterable[int], prompt), self._model.vocabulary)
        if ids.size == 0 and not empty:
            if self._model.bos_id is None:
                raise ValueError("the prompt is empty, and this model has no begin token to start from")
            ids = np.array([self._model.bos_id], np.int32)
        return ids

    def _encode_chat(self, messages: Messages, tools: Seq[Mapping[str, Any]] | None) -> NDArray[np.int32]:
        return self._encode(self._tokenizer().encode(self.apply_chat_template(messages, tools), False))

    def _table(self) -> PageTable:
        with self._engine.lock:
            self._engine.check_open()
            return self._engine.pool.table()

    def _check_context(self, needed: int, hint: str = "") -> None:
        if needed > self.context:
            raise ContextError(needed, self.context, hint)

    def _requests(
        self, ids: NDArray[np.int32], params: SamplingParams, truncate: Truncate | None, table: PageTable | None = None
    ) -> list[Request]:
        """The n requests of one prompt; with `table`, whose positions are the first ids, one that keeps its pages."""
        model, limit = self._model, self.context
        want = default_max_tokens(params, model.generation)
        length = ids.size
        if truncate is not None:
            ids = self._truncated(ids, limit - (want if params.max_tokens else min(want, limit // 2)), truncate)
        hint = "shorten the prompt, lower max_tokens, or say truncate='left' or 'right'"
        self._check_context(ids.size + (params.max_tokens or 1), hint)
        max_tokens = min(want, limit - ids.size)
        sampling = resolve(params, model.generation, model.eos_ids, model.vocabulary, max_tokens)
        if sampling.stop:
            self._tokenizer()
        requests: list[Request] = []
        for index in range(sampling.n):
            request = Request(
                ids, sampling, softmax=self._engine.softmax, tokenizer=model.tokenizer, table=table or self._table(),
                keep=table is not None, truncated=length - ids.size, index=index, leader=requests[0] if index else None,
            )  # fmt: skip
            requests.append(request)
        return requests

    def _truncated(self, ids: NDArray[np.int32], keep: int, side: str) -> NDArray[np.int32]:
        if side not in ("left", "right"):
            raise ValueError(f"truncate must be 'left' or 'right', not {side!r}")
        if ids.size <= keep or keep < 1:
            return ids  # keep < 1: max_tokens alone is too much, which _requests reports
        if side == "right":
            return ids[:keep]
        head = ids[:1] if ids[0] == self._model.bos_id and keep > 1 else ids[:0]
        return np.concatenate([head, ids[ids.size - keep + head.size :]])

    def _run(self, scheduler: Scheduler, progress: bool | OnProgress) -> None:
        """Steps to the end."""
        if progress is not True:
            scheduler.on_step = progress or None
            for _ in scheduler:
                pass
            return
        from .progress import bar

        with bar("generate", "tokens") as report:

            def show(now: Progress) -> None:
                left = sum(r.sampling.max_tokens - r.generated for r in scheduler.unfinished)
                done = now.prompt_done + now.generated
                report(done, done + now.prompt_total - now.prompt_done + left)

            scheduler.on_step = show
            for _ in scheduler:
                pass

    def _all_logits(self, ids: NDArray[np.int32], step: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(first row, float32[rows, vocabulary]) pieces of the logits of all ids; the array is used again."""
        self._check_context(ids.size)
        table = self._table()
        out = empty((min(step, ids.size), self._model.vocabulary))
        try:
            for start in range(0, ids.size, step):
                chunk = ids[start : start + step]
                yield start, self._engine.play([Work(table, chunk, chunk.size)], out[: chunk.size])
        finally:
            self._engine.free(table)


def load(source: str | os.PathLike[str] = "builtin", **options: Any) -> LLM:
    """Loads a model; the same as LLM(source, ...), where the options are described."""
    return LLM(source, **options)


def _merge(params: SamplingParams | None, keywords: Mapping[str, Any]) -> SamplingParams:
    check_names(keywords)
    if params is not None and not isinstance(params, SamplingParams):
        raise TypeError(f"params must be a SamplingParams, not {type(params).__name__}")
    return (params or SamplingParams()).with_changes(keywords)


def _is_batch(prompt: Iterable[Any]) -> bool:
    """A list of prompts, and not one list of ids."""
    items = list(prompt)
    return not items or any(isinstance(item, str | list | tuple | np.ndarray) for item in items)


def _gather(group: list[Request]) -> Result:
    """The Result of a prompt; its other samples are its further candidates."""
    import dataclasses

    results = [request.result() for request in group]
    return dataclasses.replace(results[0], others=tuple(results[1:]))
