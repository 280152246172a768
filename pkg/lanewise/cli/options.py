"""Flags that several commands share: how to load a model and how to sample from it."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any

from ..progress import bar

if TYPE_CHECKING:
    from ..engine.params import SamplingParams
    from ..llm import LLM
    from ..results import Result

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}

# flag -> (type, help); the names are those of SamplingParams
_SAMPLING: dict[str, tuple[type, str]] = {
    "max-tokens": (int, "tokens to generate at most (256, or what the context has left)"),
    "min-tokens": (int, "do not stop before so many"),
    "temperature": (float, "divides the logits; 0 is greedy"),
    "top-k": (int, "keep the k likeliest tokens; 0: all"),
    "top-p": (float, "keep the likeliest tokens that together reach this probability"),
    "min-p": (float, "keep tokens of at least this share of the likeliest one's probability"),
    "repetition-penalty": (float, "make tokens of prompt and output less likely; 1: off"),
    "presence-penalty": (float, "subtracted once for each token of the output"),
    "frequency-penalty": (float, "subtracted for each occurrence in the output"),
    "seed": (int, "the same text every time, on every machine"),
    "timeout": (float, "seconds, then stop with what there is"),
}


class UsageError(Exception):
    """Wrong arguments that argparse cannot know of; the program ends as for any wrong usage."""


def size(text: str) -> int:
    """Bytes: 800M, 4GiB, 123456."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmg]?i?)b?", text.strip().lower())
    if not found or found[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 800M or 4GiB")
    return int(float(found[1]) * _UNITS[found[2]])


def whole_numbers(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    try:
        values = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
    if not values or min(values) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 128,512")
    return values


def bias(text: str) -> tuple[int, float]:
    """ID=VALUE."""
    token, _, value = text.partition("=")
    try:
        return int(token), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not ID=VALUE") from None


def add_threads(parser: argparse.ArgumentParser) -> None:
    """What every command that computes may be told."""
    parser.add_argument("--threads", type=int, metavar="N", help="default: all that this process may use")
    parser.add_argument("--isa", metavar="NAME", help="kernel table; see `lanewise doctor`")


def add_loading(parser: argparse.ArgumentParser) -> None:
    """The arguments of lanewise.load."""
    group = parser.add_argument_group("loading")
    group.add_argument("-m", "--model", default="builtin", help="folder, owner/name in the download cache, or builtin")
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the weights")
    group.add_argument("--quantize", metavar="TYPE", help="q4, q4m, q6, q8, Q4_K_M or a GGUF type, for float weights")
    group.add_argument("--kv-dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of keys and values")
    group.add_argument("--numerics", choices=("fast", "exact"), default="fast", help="exact: same bits on every CPU")
    group.add_argument("--context", type=int, metavar="N", help="positions at most; default: the model's limit")
    group.add_argument(
        "--cache", metavar="DIR", help="keep packed weights there for the next load; 1: the usual folder"
    )
    group.add_argument("--memory-limit", type=size, metavar="SIZE", help="such as 4GiB; for weights and cache")
    add_threads(group)  # type: ignore[arg-type]


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """The fields of SamplingParams; what is not given is the model's own default."""
    group = parser.add_argument_group("sampling")
    for name, (kind, text) in _SAMPLING.items():
        group.add_argument(f"--{name}", type=kind, metavar="N" if kind is int else "X", help=text)
    group.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; may be repeated")
    group.add_argument("--stop-token-id", dest="stop_token_ids", type=int, action="append", metavar="ID")
    group.add_argument("--ignore-eos", action="store_true", default=None, help="go on after the end token")
    group.add_argument("--logit-bias", type=bias, action="append", metavar="ID=X", help="added to a token's logit")


def sampling(options: argparse.Namespace, **more: Any) -> SamplingParams:
    """The SamplingParams of the flags; a value out of range ends the program as wrong usage does."""
    from ..engine.params import NAMES, SamplingParams

    given = {**vars(options), **more}
    keywords = {name: given[name] for name in NAMES if given.get(name) is not None}
    if "logit_bias" in keywords:
        keywords["logit_bias"] = dict(keywords["logit_bias"])
    try:
        return SamplingParams(**keywords)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None


def check_type(name: str | None) -> None:
    """UsageError for what --quantize or --type does not know."""
    if name is None:
        return
    from ..model.quantize_plan import Plan

    try:
        Plan(name, 1)
    except ValueError as error:
        raise UsageError(str(error)) from None


def load(options: argparse.Namespace, quiet: bool = False) -> LLM:
    """The model, with a bar while it loads."""
    import warnings

    from ..llm import LLM

    check_type(options.quantize)
    with bar(f"loading {options.model}", "bytes", quiet=quiet) as report, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", RuntimeWarning)
        llm = LLM(
            options.model,
            dtype=options.dtype,
            quantize=options.quantize,
            kv_dtype=options.kv_dtype,
            numerics=options.numerics,
            context=options.context,
            threads=options.threads,
            isa=options.isa,
            memory_limit=options.memory_limit,
            cache={"0": False, "1": True}.get(options.cache, options.cache),
            on_progress=lambda done, total, *_: report(done, total),
        )
    for warning in found:
        error_line(f"lanewise: {warning.message}")
    return llm


def figures(result: Result) -> str:
    """One line: how many tokens, how fast."""
    usage, timings = result.usage, result.timings
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    cut = f" ({usage.truncated_tokens} cut off)" if usage.truncated_tokens else ""
    parts = [f"prompt {usage.prompt_tokens} tokens{cached}{cut}, {timings.prefill_tokens_per_second:,.1f} tokens/s"]
    decode = timings.decode_tokens_per_second
    parts.append(f"generated {usage.completion_tokens} tokens" + (f", {decode:,.1f} tokens/s" if decode else ""))
    parts.append(f"first token after {timings.time_to_first_token * 1e3:,.0f} ms")
    return " | ".join([*parts, result.finish_reason])


def error_line(text: str) -> None:
    """A line on stderr, after what stdout has."""
    sys.stdout.flush()
    print(text, file=sys.stderr, flush=True)
