"""Writers of quantised checkpoints, from the definitions of the formats, one number at a time.

Each takes codes, scales and zero points, and gives the stored tensors of one matrix (name's ending -> array and
safetensors dtype) and the values that they stand for.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lanewise.model.safetensors import open_weights

Array = np.ndarray[Any, Any]
Parts = dict[str, tuple[Array, str]]
ONES = {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def stream(values: Any, bits: int, words: int) -> list[int]:
    """The values as fields of one long number, its words from the lowest on."""
    total = 0
    for i, value in enumerate(values):
        assert 0 <= value < 1 << bits
        total |= int(value) << (bits * i)
    assert total < 1 << (32 * words)
    return [total >> (32 * word) & 0xFFFFFFFF for word in range(words)]


def int32(words: list[list[int]]) -> Array:
    return np.array(words, np.uint32).view(np.int32)


def stored_scales(values: Array, dtype: str) -> tuple[Array, Array]:
    """(as stored, the float32 that it means)."""
    if dtype == "F16":
        half = values.astype(np.float16)
        return half, half.astype(np.float32)
    if dtype == "BF16":
        high = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return high, (high.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32), values.astype(np.float32)


def expanded(codes: Array, zeros: Array, scales: Array, where: Any) -> Array:
    """(code - zero) * scale in float32; where(i, j): the index of the scale. A product of doubles is exact here."""
    out = np.empty(codes.shape, np.float32)
    for i in range(codes.shape[0]):
        for j in range(codes.shape[1]):
            at = where(i, j)
            out[i, j] = (int(codes[i, j]) - int(zeros[at])) * float(scales[at])
    return out


@dataclass
class Drawn:
    """What a writer stores: codes from 0 on [n, k], one scale and zero point for a run of `group` inputs."""

    codes: Array
    scales: Array
    zeros: Array
    group: int
    bits: int


def draw(rng: np.random.Generator, n: int, k: int, bits: int, group: int, least_zero: int = 0) -> Drawn:
    groups = -(-k // group)
    scales = rng.uniform(0.5, 1.5, (n, groups)) * 2.0 / (1 << bits) / k**0.5
    zeros = rng.integers(least_zero, 1 << bits, (n, groups))
    return Drawn(rng.integers(0, 1 << bits, (n, k)), scales, zeros, group, bits)


def gptq(d: Drawn, *, first: bool = True, g_idx: Array | None = None, dtype: str = "F16") -> tuple[Parts, Array]:
    n, k = d.codes.shape
    order = np.arange(k) // d.group if g_idx is None else g_idx
    stored, scales = stored_scales(d.scales, dtype)
    qweight = int32([stream(d.codes[i], d.bits, k * d.bits // 32) for i in range(n)]).T
    held = (d.zeros - 1) % 8 if first and d.bits == 3 else d.zeros
    packed = [stream(held[:, g], d.bits, n * d.bits // 32) for g in range(d.zeros.shape[1])]
    if first and d.bits != 3:
        packed = [[(word - ONES[d.bits]) % 2**32 for word in row] for row in packed]
    parts: Parts = {
        "qweight": (qweight, "I32"), "qzeros": (int32(packed), "I32"), "scales": (stored.T, dtype),
        "g_idx": (order.astype(np.int32), "I32"),
    }  # fmt: skip
    return parts, expanded(d.codes, d.zeros, scales, lambda i, j: (i, order[j]))


def awq(d: Drawn, *, zeros: bool = True, dtype: str = "F16") -> tuple[Parts, Array]:
    n, k = d.codes.shape
    stored, scales = stored_scales(d.scales, dtype)
    points = d.zeros if zeros else np.full_like(d.zeros, 8)

    def packed(column: Array) -> list[int]:
        return [stream([column[8 * word + at] for at in AWQ_ORDER], 4, 1)[0] for word in range(n // 8)]

    parts: Parts = {"qweight": (int32([packed(d.codes[:, j]) for j in range(k)]), "I32"), "scales": (stored.T, dtype)}
    if zeros:
        parts["qzeros"] = int32([packed(points[:, g]) for g in range(points.shape[1])]), "I32"
    return parts, expanded(d.codes, points, scales, lambda i, j: (i, j // d.group))


def packed_ints(d: Drawn, *, zeros: bool = False, plain_zeros: bool = False, dtype: str = "BF16",
                g_idx: Array | None = None) -> tuple[Parts, Array]:  # fmt: skip
    """compressed-tensors' pack-quantized."""
    (n, k), groups, middle = d.codes.shape, d.scales.shape[1], 1 << (d.bits - 1)
    order = np.arange(k) // d.group if g_idx is None else g_idx
    stored, scales = stored_scales(d.scales, dtype)
    points = d.zeros if zeros else np.full_like(d.zeros, middle)
    words = -(-k * d.bits // 32)
    parts: Parts = {
        "weight_packed": (int32([stream(d.codes[i], d.bits, words) for i in range(n)]), "I32"),
        "weight_scale": (stored, dtype), "weight_shape": (np.array([n, k], np.int64), "I64"),
    }  # fmt: skip
    if zeros and plain_zeros:
        parts["weight_zero_point"] = (points - middle).astype(np.int8), "I8"
    elif zeros:
        rows = -(-n * d.bits // 32)
        parts["weight_zero_point"] = int32([stream(points[:, g], d.bits, rows) for g in range(groups)]).T, "I32"
    if g_idx is not None:
        parts["weight_g_idx"] = g_idx.astype(np.int32), "I32"
    return parts, expanded(d.codes, points, scales, lambda i, j: (i, order[j]))


def plain_ints(d: Drawn, *, zeros: bool = False, whole: bool = False, dtype: str = "BF16") -> tuple[Parts, Array]:
    """compressed-tensors' int-quantized, a scale for each row or one for all."""
    stored, scales = stored_scales(d.scales[:1] if whole else d.scales, dtype)
    points = d.zeros if zeros else np.full_like(d.zeros, 128)
    parts: Parts = {"weight": ((d.codes - 128).astype(np.int8), "I8"),
                    "weight_scale": (stored.reshape(1) if whole else stored, dtype)}  # fmt: skip
    if zeros:
        parts["weight_zero_point"] = (points - 128).astype(np.int8), "I8"
    return parts, expanded(d.codes, points, scales, lambda i, j: (0 if whole else i, j // d.group))


def e4m3(code: int) -> float:
    """OCP FP8 E4M3: a sign, four bits of exponent with bias 7, three of fraction."""
    sign, exponent, fraction = (-1) ** (code >> 7), code >> 3 & 15, code & 7
    return sign * (2.0 ** (exponent - 7) * (1 + fraction / 8) if exponent else 2.0**-6 * fraction / 8)


def fp8(rng: np.random.Generator, n: int, k: int, block: tuple[int, int], name: str, *, dtype: str = "F32",
        shape: tuple[int, ...] | None = None) -> tuple[Parts, Array]:  # fmt: skip
    """E4M3 and a scale for each block of (rows, columns). shape: how the scales are stored."""
    codes = rng.integers(0, 127, (n, k)) | rng.integers(0, 2, (n, k)) << 7
    high, wide = -(-n // block[0]), -(-k // block[1])
    if dtype == "F8_E8M0":
        stored = rng.integers(110, 118, (high, wide)).astype(np.uint8)
        scales = np.array([[2.0 ** (int(s) - 127) for s in row] for row in stored], np.float32)
    else:
        stored, scales = stored_scales(rng.uniform(1, 2, (high, wide)) / 400 / k**0.5, dtype)
    out = np.empty((n, k), np.float32)
    for i in range(n):
        for j in range(k):
            out[i, j] = e4m3(int(codes[i, j])) * float(scales[i // block[0], j // block[1]])
    stored = stored if shape is None else stored.reshape(shape)
    return {"weight": (codes.astype(np.uint8), "F8_E4M3"), name: (stored, dtype)}, out


def mxfp4(rng: np.random.Generator, n: int, blocks: int) -> tuple[Parts, Array]:
    """OCP MXFP4 as gpt-oss stores it; the parts' names follow that of the tensor."""
    size = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
    codes, scales = rng.integers(0, 16, (n, blocks, 32)), rng.integers(0, 252, (n, blocks))
    out = np.empty((n, blocks * 32), np.float32)
    for i in range(n):
        for j in range(blocks * 32):
            code, scale = int(codes[i, j // 32, j % 32]), 2.0 ** (int(scales[i, j // 32]) - 127)
            out[i, j] = (-1.0 if code & 8 else 1.0) * size[code & 7] * scale
    packed = (codes[:, :, ::2] | codes[:, :, 1::2] << 4).astype(np.uint8)
    return {"_blocks": (packed, "U8"), "_scales": (scales.astype(np.uint8), "U8")}, out


def write(path: Path, tensors: dict[str, tuple[Array, str]]) -> None:
    """A safetensors file by hand, as NumPy lacks some of the types."""
    header: dict[str, Any] = {}
    at = 0
    for name, (array, dtype) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    data = b"".join(np.ascontiguousarray(array).tobytes() for array, _ in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


Writer = Callable[[str, int, int], tuple[Parts, Array] | None]


def pair(source: Path, folder: Path, section: dict[str, Any], writer: Writer) -> tuple[Path, Path]:
    """(the model with its matrices quantised, the same with what they stand for as float32).

    writer: module's name, rows, columns -> its parts and values; None: it stays as it is.
    """
    config = json.loads((source / "config.json").read_text())
    held, plain = {}, {}
    with open_weights(source) as weights:
        for name in weights:
            array = weights.array(name).copy()
            module = name.removesuffix(".weight")
            made = writer(module, *array.shape) if array.ndim == 2 and "embed" not in name else None
            if made is None:
                held[name] = plain[name] = array, "F32"
                continue
            plain[name] = made[1], "F32"
            held |= {f"{module}.{part}": value for part, value in made[0].items()}
    for at, tensors, extra in (("held", held, {"quantization_config": section}), ("plain", plain, {})):
        (folder / at).mkdir(parents=True)
        (folder / at / "config.json").write_text(json.dumps(config | extra))
        write(folder / at / "model.safetensors", tensors)
    return folder / "held", folder / "plain"
