"""ik_llama.cpp as a side of compare.py: a checkout of it that was built as shared libraries, by its C interface.

It has neither releases nor a stable interface: the members of the structures that its functions take by value change
from week to week. So these are called from ik_llama.c, which is compiled against the checkout's own llama.h; a header
that it does not fit is an error of the compiler. Needs a C compiler (`CC`, or cc).
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
from sides import Case, Ids, ids_of, peak_bytes

ROWS = 512  # tokens of one batch, as in ik_llama.c
FLASH, REPACKED, Q8 = "flash attention", "repacked", "q8_0 keys and values"


def build(checkout: Path, where: Path) -> Path:
    """Compiles ik_llama.c into a library in `where`, against header and libraries of the checkout.

    ValueError: there is no such header, not one built library, or they are of another program or time.
    """
    includes = [checkout / "include", checkout / "ggml" / "include"]
    for folder, name in zip(includes, ("llama.h", "ggml.h"), strict=True):
        if not (folder / name).is_file():
            raise ValueError(f"{checkout}: no {folder.name}/{name}; expected a checkout of ik_llama.cpp")
    if "repack_tensors" not in (includes[0] / "llama.h").read_text():
        raise ValueError(f"{checkout}: include/llama.h is not that of ik_llama.cpp: it cannot repack at run time")
    found = {name: sorted(checkout.rglob(name)) for name in ("libllama.so", "libggml.so")}
    for name, files in found.items():
        if len(files) != 1:
            raise ValueError(f"{checkout}: {len(files)} files {name}, expected one (a build with BUILD_SHARED_LIBS=ON)")
    libraries = [files[0].resolve() for files in found.values()]
    made = where / "ik_llama.so"
    command = [*shlex.split(os.environ.get("CC", "cc")), "-O2", "-shared", "-fPIC", "-o", str(made)]
    command += [str(common.HERE / "ik_llama.c"), *(f"-I{folder.resolve()}" for folder in includes)]
    command += [*map(str, libraries), *(f"-Wl,-rpath,{library.parent}" for library in libraries), "-Wl,--no-undefined"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ValueError(f"no C compiler for ik_llama.c: {error}; name one in CC") from None
    if done.returncode:
        raise ValueError(f"{checkout}: ik_llama.c does not fit this version of it\n{done.stderr.strip()[:2000]}")
    return made


def version(checkout: Path) -> str:
    """Its commit, for it has no releases; "?" where git does not know."""
    command = ["git", "-C", str(checkout), "rev-parse", "--verify", "-q", "HEAD"]
    if not (checkout / ".git").exists():  # or git would answer for a repository around it
        return "?"
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()[:12] or "?"
    except OSError:
        return "?"


def bind(file: Path) -> Any:
    """The compiled library, and through it those of ik_llama.cpp; pointers are given as such."""
    library = ctypes.CDLL(str(file))
    pointer, number = ctypes.c_void_p, ctypes.c_int32
    ids, flags = (np.ctypeslib.ndpointer(dtype, flags="C") for dtype in (np.int32, np.int8))
    for name, result, *given in (
        ("ik_load", pointer, ctypes.c_char_p, number),
        ("ik_context", pointer, pointer, number, number, number, number, number),
        ("ik_decode", number, pointer, number, ids, ids, ids, flags),
        ("llama_free", None, pointer),
        ("llama_n_vocab", number, pointer),
        ("llama_print_system_info", ctypes.c_char_p),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), pointer, number),
        ("llama_kv_cache_clear", None, pointer),
        ("llama_kv_cache_seq_rm", ctypes.c_bool, pointer, number, number, number),
        ("llama_kv_cache_seq_cp", None, pointer, number, number, number, number),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, given
    return library


class IkLlama:
    """A context for each case and variant; models are loaded when a variant first needs them, repacked (-rtr) or not.

    how: "library", what `build` made, and "version". Sequences share the cells of the tokens that they have in common.
    """

    variants = ("", FLASH, REPACKED, f"{REPACKED}, {FLASH}", f"{REPACKED}, {FLASH}, {Q8}")

    def __init__(self, file: Path, threads: int, how: dict[str, Any]) -> None:
        os.dup2(2, 1)  # it prints; standard output is for figures
        self.file, self.threads, self.api = file, threads, bind(how["library"])
        self.version = how["version"]
        self.models: dict[bool, Any] = {}
        self.contexts: dict[tuple[Case, str], Any] = {}
        self.vocabulary = self.api.llama_n_vocab(self.model(False))
        self.ids = ids_of(self.vocabulary, 1 << 16)

    def hello(self) -> dict[str, Any]:
        features = re.findall(r"(\w+) = 1", self.api.llama_print_system_info().decode())
        return {"version": self.version, "features": features, "variants": self.variants}

    def model(self, repacked: bool) -> Any:
        if repacked not in self.models:
            self.models[repacked] = self.api.ik_load(str(self.file).encode(), repacked)
            if not self.models[repacked]:
                raise ValueError(f"ik_llama.cpp does not load {self.file}")
        return self.models[repacked]

    def drop(self, case: Case, variant: str) -> None:
        self.api.llama_free(self.contexts.pop((case, variant)))

    def context(self, length: int, sequences: int, variant: str) -> Any:
        cells = -(-length // 256) * 256 * sequences
        model = self.model(REPACKED in variant)
        made = self.api.ik_context(model, cells, sequences, self.threads, FLASH in variant, Q8 in variant)
        if not made:
            raise ValueError(f"ik_llama.cpp makes no context of {sequences} x {length} tokens")
        return made

    def decode(self, context: Any, tokens: Ids, positions: Ids, sequences: Ids, logits: Any) -> None:
        status = self.api.ik_decode(context, len(tokens), tokens, positions, sequences, logits)
        if status:
            raise ValueError(f"llama_decode of ik_llama.cpp answers {status}")
        self.api.llama_get_logits_ith(context, len(tokens) - 1)

    def prefill(self, context: Any, n: int) -> None:
        """n tokens of sequence 0, logits of the last of each batch."""
        for at in range(0, n, ROWS):
            rows = min(n - at, ROWS)
            last = np.zeros(rows, np.int8)
            last[-1] = 1
            positions = np.arange(at, at + rows, dtype=np.int32)
            self.decode(context, self.ids[at : at + rows], positions, np.zeros(rows, np.int32), last)

    def turn(self, case: Case, variant: str = "") -> float:
        s, key = case.sequences, (case, variant)
        if key not in self.contexts:
            self.contexts[key] = context = self.context(case.length, s, variant)
            self.prefill(context, case.depth)
            for other in range(1, s):
                self.api.llama_kv_cache_seq_cp(context, 0, other, -1, -1)
        context = self.contexts[key]
        for sequence in range(s):
            self.api.llama_kv_cache_seq_rm(context, sequence, case.depth, -1)
        every, logits = np.arange(s, dtype=np.int32), np.ones(s, np.int8)
        begin = time.perf_counter()
        if case.phase == "prefill":
            self.prefill(context, case.tokens)
        else:
            for at in range(case.depth, case.length):
                self.decode(context, self.ids[at * s : at * s + s], np.full(s, at, np.int32), every, logits)
        return time.perf_counter() - begin

    @classmethod
    def first_token(cls, file: Path, threads: int, how: dict[str, Any], prompt: int) -> dict[str, float]:
        """As of Lanewise; its default: flash attention, the file mapped."""
        begin = time.perf_counter()
        side = cls(file, threads, how)
        context = side.context(prompt, 1, FLASH)
        side.prefill(context, 8)
        logits = side.api.llama_get_logits_ith(context, 7)
        int(np.ctypeslib.as_array(logits, (side.vocabulary,)).argmax())
        seconds = time.perf_counter() - begin
        side.api.llama_kv_cache_clear(context)
        side.prefill(context, prompt)
        return {"seconds": seconds, "peak_bytes": peak_bytes()}
