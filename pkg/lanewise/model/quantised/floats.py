"""FP8 with scales for the whole tensor, rows or blocks, and MXFP4.

FP8 as DeepSeek-V3, Qwen and transformers store it (transformers: integrations/finegrained_fp8.py): a weight is an E4M3
code times the scale of its block, `weight_scale_inv` in spite of the name. The product is taken in float32, where it
is exact for scales of 16 bits or powers of two. MXFP4 as gpt-oss stores it: `X_blocks` and `X_scales` are the tensor X.
"""

from __future__ import annotations

import numpy as np

from ...errors import shorten
from ..config import MAX_WIDTH, Fields
from .codes import E4M3, Bytes, Floats, mxfp4
from .stored import FLOATS, Module, Scheme, Stored

FP8 = "F8_E4M3"
SCALES = (*FLOATS, "F8_E8M0")
_CODES = E4M3[1:127]  # the positive numbers
_SCALES = 1 << 14  # multiplied by all of them at a time
_MOST = 252  # the largest exponent of MXFP4 beside which no code is infinite


def grid(module: Module, part: str, shape: tuple[int, int], block: tuple[int, int]) -> None:
    """LoadError unless `part` has a scale for each block of a matrix, as [rows, columns] or without dimensions of 1."""
    counts = (-(-shape[0] // block[0]), -(-shape[1] // block[1]))
    shapes = [counts]
    if counts[1] == 1:
        shapes.append((counts[0],))  # type: ignore[arg-type]
    if counts == (1, 1):
        shapes.append(())  # type: ignore[arg-type]
    module.expect(part, SCALES, *shapes)


class Fp8Weight(Stored):
    """E4M3 codes, each times the scale of its block of (rows, columns)."""

    def __init__(self, module: Module, shape: tuple[int, int], scale: str, block: tuple[int, int]) -> None:
        super().__init__(module, shape)
        self.scale, self.block = scale, block
        grid(module, scale, shape, block)

    def rows(self, start: int, stop: int) -> Floats:
        out: Floats = E4M3.take(self.module.array(".weight")[start:stop])
        high, wide = self.block
        scales = self.module.scales(self.scale).astype(np.float32).reshape(-(-self.shape[0] // high), -1)
        scales = scales[np.arange(start, stop) // high]
        for column in range(scales.shape[1]):
            out[:, column * wide : (column + 1) * wide] *= scales[:, column : column + 1]
        return out

    def dtype(self) -> str:
        """A code has four significant bits: with a scale of four at most, a power of two say, the product has eight."""
        scales = np.unique(self.module.scales(self.scale).astype(np.float32))
        for start in range(0, len(scales), _SCALES):
            part = scales[start : start + _SCALES]
            if (part.view(np.uint32) & 0xFFFF).any():
                return "F32"
            with np.errstate(over="ignore"):
                if ((part[:, None] * _CODES).view(np.uint32) & 0xFFFF).any():
                    return "F32"
        return "BF16"


class Fp8(Scheme):
    """quant_method "fp8"."""

    marks = (".weight_scale_inv", ".weight_scale")
    unused = (".input_scale", ".activation_scale", ".k_scale", ".v_scale")  # activations are not quantised here

    def __init__(self, fields: Fields) -> None:
        kind = fields.text("fmt", "e4m3")
        if kind != "e4m3":
            raise fields.unsupported("fmt", f"is {shorten(kind)!r}; supported: e4m3")
        activations = fields.text("activation_scheme", "dynamic")
        if activations not in ("dynamic", "static"):
            raise fields.unsupported("activation_scheme", f"is {shorten(activations)!r}; supported: dynamic, static")
        self.block = block_size(fields, "weight_block_size")

    def __str__(self) -> str:
        return "fp8" + (f", blocks of {self.block[0]} x {self.block[1]}" if self.block else ", one scale a tensor")

    def open(self, module: Module, mark: str) -> Stored:
        n, k = module.info(".weight", (FP8,), 2).shape
        shape = module.weights.info(module.name + mark).shape
        per_row = self.block is None and shape in ((n, 1), (n,)) and n > 1
        return Fp8Weight(module, (n, k), mark, self.block or ((1, k) if per_row else (n, k)))


def block_size(fields: Fields, key: str) -> tuple[int, int] | None:
    """[rows, columns] of a block; None when absent. LoadError."""
    if key not in fields:
        return None
    value = fields.values[key]
    if not isinstance(value, list) or len(value) != 2 or not all(type(n) is int and 0 < n <= MAX_WIDTH for n in value):
        raise fields.error(key, f"is {shorten(value)}, not two integers from 1 to {MAX_WIDTH}")
    return value[0], value[1]


class Mxfp4(Scheme):
    """quant_method "mxfp4"."""

    marks = ("_blocks",)
    weight = ""

    def __init__(self, fields: Fields) -> None:
        del fields  # nothing in it says how tensors are stored

    def __str__(self) -> str:
        return "mxfp4"

    def open(self, module: Module, mark: str) -> Stored:
        info = module.info("_blocks", ("U8",))
        if len(info.shape) < 3 or 0 in info.shape or info.shape[-1] != 16:
            raise module.error("_blocks", f"has the shape {list(info.shape)}, expected [rows, blocks, 16]")
        module.expect("_scales", ("U8", "F8_E8M0"), info.shape[:-1])
        return _Mxfp4Tensor(module, (*info.shape[:-2], info.shape[-2] * 32))


class _Mxfp4Tensor(Stored):
    def rows(self, start: int, stop: int) -> Floats:
        return mxfp4(*self._parts(start, stop))

    def _parts(self, start: int, stop: int) -> tuple[Bytes, Bytes]:
        blocks, scales = self.module.array("_blocks"), self.module.array("_scales")
        blocks = blocks.reshape(-1, *blocks.shape[-2:])[start:stop]
        scales = scales.reshape(-1, scales.shape[-1])[start:stop]
        if (scales == 255).any():
            raise self.module.error("_scales", "has a scale that is not a number (255)")
        return blocks, scales

    def blocks_format(self) -> str | None:
        return "mxfp4" if self.module.array("_scales").max() <= _MOST else None

    def blocks(self, format: str, start: int, stop: int) -> Bytes:
        """As in GGUF: the exponent, then the codes with 16 inputs between those of a byte. Zeros lose their sign."""
        codes, scales = self._parts(start, stop)
        out: Bytes = np.empty((*scales.shape, 17), np.uint8)
        out[:, :, 0] = scales
        each = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*scales.shape, 32)
        out[:, :, 1:] = each[:, :, :16] | each[:, :, 16:] << 4
        return out.reshape(len(scales), -1)
