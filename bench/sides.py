"""Programs that run a GGUF file behind the same few methods, for compare.py; each lives in a process of its own.

A side has `hello()`, facts about itself; `turn(case, variant)`, seconds of a case, without those for the tokens that
are in the cache before; `drop(case, variant)`, which will not be asked for again. `first_token` is for a new process.
"""

from __future__ import annotations

import importlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common  # noqa: F401  before numpy
import numpy as np

from lanewise.model.model import STEP_ROWS, Model

Ids = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, slots=True)
class Case:
    """`sequences` that have `depth` tokens each get `tokens` more each: at once (prefill) or one after another."""

    phase: str
    tokens: int
    depth: int = 0
    sequences: int = 1

    @property
    def name(self) -> str:
        if self.phase == "prefill":
            return f"prefill {self.tokens}"
        if self.sequences > 1:
            return f"{self.sequences} sequences at {self.depth}"
        return f"decode {self.tokens} at {self.depth}"

    @property
    def length(self) -> int:
        """Positions of one sequence."""
        return self.depth + self.tokens


def ids_of(vocabulary: int, n: int) -> Ids:
    """The same tokens for every side."""
    return np.random.default_rng(0).integers(10, vocabulary, n).astype(np.int32)


def peak_bytes() -> int:
    """The most memory that this process had resident, mapped files included (VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


class Lanewise:
    """This package: a loaded model, stepped as the engine does. Each case has pages of its own."""

    variants = ("",)

    def __init__(self, file: Path, threads: int | None, how: dict[str, Any]) -> None:
        self.model = Model.load(file, threads=threads, **how)
        self.ids = ids_of(self.model.vocabulary, 1 << 16)
        self.pages: dict[Case, Any] = {}
        self.used = 0

    def hello(self) -> dict[str, Any]:
        plan = self.model.memory_plan(context=1)
        return {"info": self.model.info(), "cache_per_token": plan["cache_per_token"], "variants": self.variants}

    def drop(self, case: Case, variant: str) -> None:
        """There is one only."""

    def step(self, table: Any, starts: list[int], first: list[int], tokens: Ids, out: Any) -> None:
        """One step; logits of each sequence's last token."""
        rows = np.array(starts, np.int32)
        self.model.run(tokens, rows, np.array(first, np.int32), table, rows[1:] - 1, out)

    def prefill(self, table: Any, n: int, out: Any) -> None:
        for at in range(0, n, STEP_ROWS):
            rows = min(n - at, STEP_ROWS)
            self.step(table, [0, rows], [at], self.ids[at : at + rows], out)

    def _prepare(self, case: Case, out: Any) -> Any:
        """The page table, the first `depth` tokens of all sequences computed."""
        if case in self.pages:
            return self.pages[case]
        each = self.model.pages_for(case.length)
        table = np.arange(self.used, self.used + case.sequences * each, dtype=np.int32).reshape(case.sequences, each)
        self.used += table.size
        self.model.reserve_pages(self.used)
        self.prefill(table[:1], case.depth, out[:1])
        for other in table[1:]:
            for page in range(self.model.pages_for(case.depth)):
                self.model.copy_page(int(table[0, page]), int(other[page]))
        self.pages[case] = table
        return table

    def turn(self, case: Case, variant: str = "") -> float:
        s = case.sequences
        out = np.zeros((s, self.model.vocabulary), np.float32)
        table = self._prepare(case, out)
        begin = time.perf_counter()
        if case.phase == "prefill":
            self.prefill(table, case.tokens, out)
        else:
            starts = list(range(s + 1))
            for at in range(case.depth, case.length):
                self.step(table, starts, [at] * s, self.ids[at * s : at * s + s], out)
        return time.perf_counter() - begin

    @classmethod
    def first_token(cls, file: Path, threads: int | None, how: dict[str, Any], prompt: int) -> dict[str, float]:
        """Seconds from load to the first token of an 8-token prompt, and the peak after a longer prompt."""
        begin = time.perf_counter()
        side = cls(file, threads, how)
        out = np.zeros((1, side.model.vocabulary), np.float32)
        side.model.reserve_pages(side.model.pages_for(prompt))
        table = np.arange(side.model.pages_for(prompt), dtype=np.int32)[None]
        side.prefill(table, 8, out)
        int(out.argmax())
        seconds = time.perf_counter() - begin
        side.prefill(table, prompt, out)
        return {"seconds": seconds, "peak_bytes": peak_bytes()}


class LlamaCpp:
    """llama.cpp by its C interface, through llama-cpp-python: a context for each case and kind of attention."""

    variants = ("", "flash attention")

    def __init__(self, file: Path, threads: int, how: dict[str, Any]) -> None:
        import llama_cpp

        self.api, self.threads = llama_cpp, threads
        self.log = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.log, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), params)
        if not self.model:
            raise ValueError(f"llama.cpp does not load {file}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.ids = ids_of(self.vocabulary, 1 << 16)
        self.contexts: dict[tuple[Case, str], Any] = {}

    def hello(self) -> dict[str, Any]:
        system = self.api.llama_print_system_info().decode()
        features = re.findall(r"(\w+) = 1", system)
        return {"version": self.api.__version__, "features": features, "variants": self.variants}

    def drop(self, case: Case, variant: str) -> None:
        self.api.llama_free(self.contexts.pop((case, variant)))

    def context(self, length: int, sequences: int, variant: str) -> Any:
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_seq_max = -(-length // 256) * 256 * sequences, sequences
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = 1 if variant else 0
        made = self.api.llama_init_from_model(self.model, params)
        if not made:
            raise ValueError(f"llama.cpp makes no context of {sequences} x {length} tokens")
        return made

    def fill(self, tokens: Ids, positions: list[int], sequences: list[int], logits: list[int]) -> None:
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens.tolist()):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, positions[i], 1, logits[i]
            batch.seq_id[i][0] = sequences[i]

    def decode(self, context: Any) -> None:
        status = self.api.llama_decode(context, self.batch)
        if status:
            raise ValueError(f"llama_decode answers {status}")
        self.api.llama_synchronize(context)
        self.api.llama_get_logits_ith(context, -1)

    def prefill(self, context: Any, n: int) -> None:
        """n tokens of sequence 0, logits of the last."""
        for at in range(0, n, 512):
            rows = min(n - at, 512)
            last = [int(at + i == n - 1) for i in range(rows)]
            self.fill(self.ids[at : at + rows], list(range(at, at + rows)), [0] * rows, last)
            self.decode(context)

    def turn(self, case: Case, variant: str = "") -> float:
        s, key = case.sequences, (case, variant)
        if key not in self.contexts:
            self.contexts[key] = context = self.context(case.length, s, variant)
            self.prefill(context, case.depth)
            for other in range(1, s):
                self.api.llama_memory_seq_cp(self.api.llama_get_memory(context), 0, other, -1, -1)
        context = self.contexts[key]
        memory = self.api.llama_get_memory(context)
        for sequence in range(s):
            self.api.llama_memory_seq_rm(memory, sequence, case.depth, -1)
        begin = time.perf_counter()
        if case.phase == "prefill":
            self.prefill(context, case.tokens)
        else:
            for at in range(case.depth, case.length):
                self.fill(self.ids[at * s : at * s + s], [at] * s, list(range(s)), [1] * s)
                self.decode(context)
        return time.perf_counter() - begin

    @classmethod
    def first_token(cls, file: Path, threads: int, how: dict[str, Any], prompt: int) -> dict[str, float]:
        """As of Lanewise."""
        begin = time.perf_counter()
        side = cls(file, threads, how)
        context = side.context(prompt, 1, "flash attention")
        side.prefill(context, 8)
        logits = side.api.llama_get_logits_ith(context, -1)
        int(np.ctypeslib.as_array(logits, (side.vocabulary,)).argmax())
        seconds = time.perf_counter() - begin
        side.api.llama_memory_clear(side.api.llama_get_memory(context), True)
        side.prefill(context, prompt)
        return {"seconds": seconds, "peak_bytes": peak_bytes()}


SIDES: dict[str, Any] = {"lanewise": Lanewise, "llama.cpp": LlamaCpp}
ELSEWHERE = {  # the first word of a side's name -> what it imports, its module here, its class
    "OpenVINO": ("openvino", "sides_openvino", "OpenVino"),
    "CTranslate2": ("ctranslate2", "sides_ctranslate2", "CTranslate2"),
    "ik_llama.cpp": ("ctypes", "sides_ik_llama", "IkLlama"),
}


def side(name: str) -> Any:
    """The class of a side; libraries are imported where they are used, which is not loading."""
    if (first := name.split()[0]) in ELSEWHERE:
        library, module, kind = ELSEWHERE[first]
        importlib.import_module(library)
        return getattr(importlib.import_module(module), kind)
    if name == "llama.cpp":
        import llama_cpp  # noqa: F401
    return SIDES[name]


def make(name: str, *arguments: Any) -> Any:
    """A side, in its own process."""
    return side(name)(*arguments)


class First:
    """A fresh process that loads and answers once."""

    def __init__(self, name: str, file: Path, threads: int | None, how: dict[str, Any], prompt: int) -> None:
        self.found: dict[str, float] = side(name).first_token(file, threads, how, prompt)

    def hello(self) -> dict[str, float]:
        return self.found
