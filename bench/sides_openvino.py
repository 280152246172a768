"""OpenVINO as a side of compare.py: a folder of `optimum-cli export openvino`, of the same shape as the file.

As OpenVINO GenAI does, the head is computed for the last token only. Precision of keys and values: OpenVINO's choice.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import common  # noqa: F401  before numpy
import numpy as np
from sides import Case, ids_of, peak_bytes


class OpenVino:
    """A stateful model on the CPU; what a case has in the cache is computed anew before its clock starts."""

    variants = ("",)

    def __init__(self, folder: Path, threads: int, how: dict[str, Any]) -> None:
        import openvino

        self.version = openvino.__version__
        core = openvino.Core()
        model = core.read_model(folder / "openvino_model.xml")
        self.vocabulary = model.output("logits").get_partial_shape()[2].get_length()
        _last_token_only(model)
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self.compiled = core.compile_model(model, "CPU", options)
        self.request = self.compiled.create_infer_request()
        self.inputs = {name for port in self.compiled.inputs for name in port.get_names()}
        self.ids = ids_of(self.vocabulary, 1 << 16).astype(np.int64)

    def hello(self) -> dict[str, Any]:
        kept = str(self.compiled.get_property("KV_CACHE_PRECISION"))
        return {"version": self.version, "kv_dtype": kept, "variants": self.variants}

    def drop(self, case: Case, variant: str) -> None:
        """There is one only."""

    def step(self, ids: Any, past: int) -> Any:
        """ids int64[sequences, tokens] after `past` others; logits of the last."""
        s, n = ids.shape
        given = {
            "input_ids": ids,
            "attention_mask": np.ones((s, past + n), np.int64),
            "position_ids": np.broadcast_to(np.arange(past, past + n), (s, n)).copy(),
            "beam_idx": np.arange(s, dtype=np.int32),
        }
        self.request.infer({name: value for name, value in given.items() if name in self.inputs})
        return self.request.get_tensor("logits").data

    def turn(self, case: Case, variant: str = "") -> float:
        s = case.sequences
        self.request.reset_state()
        if case.depth:
            self.step(np.repeat(self.ids[None, : case.depth], s, axis=0), 0)
        begin = time.perf_counter()
        if case.phase == "prefill":
            self.step(self.ids[None, : case.tokens], 0)
        else:
            for at in range(case.depth, case.length):
                self.step(self.ids[at * s : at * s + s, None], at)
        return time.perf_counter() - begin

    @classmethod
    def first_token(cls, folder: Path, threads: int, how: dict[str, Any], prompt: int) -> dict[str, float]:
        """As of Lanewise."""
        begin = time.perf_counter()
        side = cls(folder, threads, how)
        int(side.step(side.ids[None, :8], 0).argmax())
        seconds = time.perf_counter() - begin
        side.request.reset_state()
        side.step(side.ids[None, :prompt], 0)
        return {"seconds": seconds, "peak_bytes": peak_bytes()}


def _last_token_only(model: Any) -> None:
    """Cuts all tokens but the last off the head's input."""
    from openvino import opset13 as ops

    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":  # a conversion or the like
        node = node.input_value(0).get_node()
    minus_two, minus_one, axis = (ops.constant(np.array([i], np.int64)) for i in (-2, -1, 1))
    last = ops.slice(node.input_value(0), minus_one, minus_two, minus_one, axis)
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()
