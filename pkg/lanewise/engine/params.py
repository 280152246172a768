"""SamplingParams: what a user may ask of a generation; Sampling: the same with every question answered."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LogitsProcessor = Callable[[NDArray[np.int32], NDArray[np.float32]], "NDArray[np.float32] | None"]

DEFAULT_MAX_TOKENS = 256
GREEDY_BELOW = 1e-5  # a temperature under this is greedy: dividing by it would only overflow


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose tokens, and when to stop. None: the model's generation_config, then the standard value.

    The steps run in this order: repetition, frequency and presence penalties, logit_bias, min_tokens,
    logits_processors, temperature, top_k, top_p, min_p.

    max_tokens          tokens to generate at most (256, or what the context has left if that is less)
    min_tokens          no end token and no stop string before so many tokens (0)
    temperature         divides the logits (1.0); 0 is greedy: the largest logit, the lowest id where several tie
    top_k               keep the k largest logits (0: all)
    top_p               keep the fewest tokens whose probabilities reach top_p (1.0: all)
    min_p               keep tokens of at least min_p times the largest probability (0.0: all)
    repetition_penalty  divides positive and multiplies negative logits of tokens in the prompt or the output (1.0)
    presence_penalty    is subtracted once from the logit of each token in the output (0.0), -2 to 2
    frequency_penalty   is subtracted once per occurrence in the output (0.0), -2 to 2
    seed                an integer >= 0: the same text on every machine; None draws one from the system
    stop                a string or strings that end the text; the text is cut before them
    stop_token_ids      further ids that end the generation, beside the model's own end tokens
    ignore_eos          go on after the model's end tokens
    logprobs            None, or how many alternatives to report beside the chosen token's log-probability
                        (log-softmax of the model's own logits, before any of the steps above)
    logit_bias          {token id: number added to its logit}
    logits_processors   functions f(token_ids, logits): int32[n] prompt and output so far (read only) and
                        float32[vocabulary], changed in place or returned anew
    n                   samples per prompt; they share the prompt's pages. With a seed, sample i is always the same
    cancel              a threading.Event: when set, the request ends with what it has, finish_reason "cancelled"
    timeout             seconds after which it ends in the same way

    An unknown keyword is a TypeError that names the nearest known one; a value out of range is a ValueError.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    logits_processors: Sequence[LogitsProcessor] = ()
    n: int = 1
    cancel: threading.Event | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids or ()))
        object.__setattr__(self, "logit_bias", dict(self.logit_bias or {}))
        object.__setattr__(self, "logits_processors", tuple(self.logits_processors or ()))
        _validate(self)

    def with_changes(self, changes: Mapping[str, Any]) -> SamplingParams:
        """A copy with keywords changed; an unknown one is a TypeError with the nearest name."""
        check_names(changes)
        return dataclasses.replace(self, **changes) if changes else self


NAMES = tuple(field.name for field in dataclasses.fields(SamplingParams))


def check_names(keywords: Iterable[str], known: Sequence[str] = NAMES) -> None:
    """TypeError for the first keyword that is not in `known`, with the nearest known name."""
    for name in keywords:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise TypeError(f"unknown parameter {name!r}{hint}")


def _with_hint(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def checked(self: SamplingParams, **keywords: Any) -> None:
        check_names(keywords)
        init(self, **keywords)

    return checked


SamplingParams.__init__ = _with_hint(SamplingParams.__init__)  # type: ignore[method-assign]


def _whole(name: str, value: object, low: int, optional: bool = True) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, not {value}")


def _number(name: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, not {value!r}")
    number = float(value)
    if not (low < number if above else low <= number) or not number <= high or math.isinf(number):
        least = f"above {low:g}" if above else f"at least {low:g}"
        most = "" if math.isinf(high) else f" and at most {high:g}"
        raise ValueError(f"{name} must be {least}{most}, not {value}")


def _validate(p: SamplingParams) -> None:
    _whole("max_tokens", p.max_tokens, 1)
    _whole("min_tokens", p.min_tokens, 0, optional=False)
    _whole("top_k", p.top_k, 0)
    _whole("seed", p.seed, 0)
    _whole("logprobs", p.logprobs, 0)
    _whole("n", p.n, 1, optional=False)
    _number("temperature", p.temperature, 0, math.inf)
    _number("top_p", p.top_p, 0, 1, above=True)
    _number("min_p", p.min_p, 0, 1)
    _number("repetition_penalty", p.repetition_penalty, 0, math.inf, above=True)
    _number("presence_penalty", p.presence_penalty, -2, 2)
    _number("frequency_penalty", p.frequency_penalty, -2, 2)
    _number("timeout", p.timeout, 0, math.inf)
    if p.max_tokens is not None and p.min_tokens > p.max_tokens:
        raise ValueError(f"min_tokens {p.min_tokens} is more than max_tokens {p.max_tokens}")
    for text in p.stop:
        if not isinstance(text, str) or not text:
            raise ValueError(f"stop must be non-empty strings, not {text!r}")
    for token in p.stop_token_ids:
        _whole("a stop token id", token, 0, optional=False)
    for token, bias in p.logit_bias.items():
        _whole("a logit_bias token id", token, 0, optional=False)
        if isinstance(bias, bool) or not isinstance(bias, int | float) or math.isnan(bias) or bias == math.inf:
            raise ValueError(f"logit_bias of token {token} must be a number, not {bias!r}")
    for f in p.logits_processors:
        if not callable(f):
            raise TypeError(f"a logits processor must be callable, not {f!r}")


@dataclass(frozen=True)
class Sampling:
    """SamplingParams with every None answered for one request of one model."""

    max_tokens: int
    min_tokens: int
    temperature: float  # 0.0 is greedy
    top_k: int  # 0: off
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | None
    stop: tuple[str, ...]
    end_ids: frozenset[int]  # any of these ends the generation
    logprobs: int | None
    logit_bias: Mapping[int, float]
    logits_processors: tuple[LogitsProcessor, ...]
    n: int
    cancel: threading.Event | None
    timeout: float | None


def default_max_tokens(params: SamplingParams, generation: Mapping[str, Any]) -> int:
    """The max_tokens asked for, or the model's, or the standard one; not yet bounded by the context."""
    for value in (params.max_tokens, generation.get("max_new_tokens")):
        if isinstance(value, int) and value >= 1:
            return value
    return DEFAULT_MAX_TOKENS


def resolve(
    params: SamplingParams, generation: Mapping[str, Any], eos_ids: Iterable[int], vocabulary: int, max_tokens: int
) -> Sampling:
    """Answers every None: from the model's generation_config where it is usable, else the standard value.

    Its do_sample is not looked at: greedy is what temperature=0 says. Ids outside the vocabulary are a ValueError.
    """

    def pick(name: str, standard: float) -> float:
        for value in (getattr(params, name), generation.get(name)):
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        return standard

    temperature = pick("temperature", 1.0)
    for what, ids in (("stop_token_ids", params.stop_token_ids), ("logit_bias", params.logit_bias)):
        for token in ids:
            if token >= vocabulary:
                raise ValueError(f"{what}: token id {token} is outside the vocabulary of {vocabulary}")
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=params.min_tokens,
        temperature=0.0 if temperature < GREEDY_BELOW else temperature,
        top_k=max(0, int(pick("top_k", 0))),
        top_p=pick("top_p", 1.0),
        min_p=pick("min_p", 0.0),
        repetition_penalty=pick("repetition_penalty", 1.0),
        presence_penalty=float(params.presence_penalty),
        frequency_penalty=float(params.frequency_penalty),
        seed=params.seed,
        stop=tuple(params.stop),
        end_ids=frozenset(params.stop_token_ids) | (frozenset() if params.ignore_eos else frozenset(eos_ids)),
        logprobs=params.logprobs,
        logit_bias=params.logit_bias,
        logits_processors=tuple(params.logits_processors),
        n=params.n,
        cancel=params.cancel,
        timeout=params.timeout,
    )
