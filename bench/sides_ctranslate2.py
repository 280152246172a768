"""CTranslate2 as a side of compare.py: a folder of `ct2-transformers-converter --quantization int8` of the same shape.

Only `generate_batch` keeps keys and values, so it is what is measured, with the arithmetic that CTranslate2 finds
fastest here. Decoding is timed in its callback, from the token that the prompt itself gives to the last one: the
prompt, the look-up of tokens, and the copy of a prefix that is kept from turn to turn (the static prompt) cost it
nothing. A prefill is one call for one token: the prompt without its last token in one forward without the head, then
a step. Each step picks the likeliest token, which other sides are spared: microseconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common  # noqa: F401  before numpy
from sides import Case, ids_of, peak_bytes


class CTranslate2:
    """A generator on the CPU with one replica; no token ends a text."""

    variants = ("",)

    def __init__(self, folder: Path, threads: int, how: dict[str, Any]) -> None:
        import ctranslate2

        self.version = ctranslate2.__version__
        file = folder / "vocabulary.json"
        vocabulary = json.loads(file.read_text())
        if not isinstance(vocabulary, list):
            raise ValueError(f"{file}: expected a list of tokens, as ct2-transformers-converter writes it")
        self.tokens = [vocabulary[i] for i in ids_of(len(vocabulary), 1 << 16).tolist()]
        options = {"compute_type": "auto", "inter_threads": 1, "intra_threads": threads}
        self.generator = ctranslate2.Generator(str(folder), device="cpu", **options)

    def hello(self) -> dict[str, Any]:
        return {"version": self.version, "compute_type": self.generator.compute_type, "variants": self.variants}

    def drop(self, case: Case, variant: str) -> None:
        """There is one only."""

    def generate(
        self,
        prompts: list[list[str]],
        n: int,
        prefix: list[str] | None = None,
        callback: Callable[[Any], bool] | None = None,
    ) -> None:
        """n tokens after each prompt, all prompts after the same prefix; callback: for each token."""
        self.generator.generate_batch(
            prompts,
            max_length=n,
            min_length=n,  # what ends a text is forbidden
            include_prompt_in_result=False,  # or the prompt would go in token by token
            static_prompt=prefix or None,
            callback=callback,
        )

    def turn(self, case: Case, variant: str = "") -> float:
        if case.phase == "prefill":
            begin = time.perf_counter()
            self.generate([self.tokens[: case.tokens]], 1)
            return time.perf_counter() - begin
        prefix = self.tokens[: max(case.depth - 1, 0)]  # at depth 0, too, something must be there: one token
        prompts = [[self.tokens[len(prefix) + i]] for i in range(case.sequences)]
        times: list[float] = []

        def token(result: Any) -> bool:
            times.append(time.perf_counter())
            return False  # go on

        self.generate(prompts, case.tokens + 1, prefix, token)
        if len(times) != case.sequences * (case.tokens + 1):
            raise ValueError(f"CTranslate2 gave {len(times)} tokens, not {case.sequences} times {case.tokens + 1}")
        return times[-1] - times[case.sequences - 1]

    @classmethod
    def first_token(cls, folder: Path, threads: int, how: dict[str, Any], prompt: int) -> dict[str, float]:
        """As of Lanewise."""
        begin = time.perf_counter()
        side = cls(folder, threads, how)
        side.generate([side.tokens[:8]], 1)
        seconds = time.perf_counter() - begin
        side.generate([side.tokens[:prompt]], 1)
        return {"seconds": seconds, "peak_bytes": peak_bytes()}
