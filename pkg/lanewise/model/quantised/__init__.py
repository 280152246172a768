"""Quantised safetensors checkpoints: what config.json's quantization_config says, as a Scheme."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import shorten
from ..config import Config, Fields
from .compressed import CompressedTensors
from .floats import Fp8, Mxfp4
from .packed import Awq, Gptq
from .stored import QuantisedWeights, Scheme

SECTION = "quantization_config"
METHODS: dict[str, Callable[[Fields], Scheme]] = {
    "gptq": Gptq, "awq": Awq, "compressed-tensors": CompressedTensors, "fp8": Fp8, "mxfp4": Mxfp4,
}  # fmt: skip

__all__ = ["METHODS", "QuantisedWeights", "Scheme", "read_scheme"]


def read_scheme(config: Config) -> Scheme | None:
    """How the weights are quantised; None: not at all.

    LoadError names the field; UnsupportedError for methods, and combinations, that are not known here.
    """
    fields = config.fields(SECTION)
    if fields is None:
        return None
    method = fields.text("quant_method")
    if method not in METHODS:
        raise fields.unsupported("quant_method", f"is {shorten(method)!r}; supported: {', '.join(METHODS)}")
    return METHODS[method](fields)
