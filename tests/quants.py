"""Quantised weights and activations for the tests: blocks of every type, and what a product of them has to be."""

from __future__ import annotations

from typing import Any

import numpy as np

from lanewise import kernels as k
from lanewise.model.gguf_types import TYPES, TensorType, expand
from lanewise.model.gguf_wide import LEVELS, WIDER


def _wide(format: str) -> Any:
    """The values of a class that is no type of GGUF: d, 16 scales, 256 nibbles, those of the second half on top."""
    levels = np.array(LEVELS[format] + (0,) * (16 - len(LEVELS[format])), np.float32)

    def values(b: Array) -> Array:
        d, scales = np.ascontiguousarray(b[:, :4]).view("<f4"), b[:, 4:20].view(np.int8).astype(np.float32)
        codes = np.concatenate([b[:, 20:] & 15, b[:, 20:] >> 4], axis=1)
        return (d * scales)[:, :, None] * levels[codes].reshape(len(b), 16, 16)

    return values


Array = np.ndarray[Any, Any]
KINDS = {kind.name.lower(): kind for kind in TYPES.values() if kind.name.lower() in k.QUANTISED}
KINDS |= {name: TensorType(name, 256, 148, None, _wide(name)) for name in LEVELS}
NAMES = tuple(KINDS)
STORED = KINDS | {kind.name.lower(): kind for kind in TYPES.values() if kind.name in WIDER}
SMALL = tuple(name for name in NAMES if KINDS[name].block == 32)
# where the float16 scales of a block begin
SCALES = {
    "q4_0": [0], "q4_1": [0, 2], "q5_0": [0], "q5_1": [0, 2], "q8_0": [0], "q2_k": [80, 82], "q3_k": [108],
    "q4_k": [0, 2], "q5_k": [0, 2], "q6_k": [208], "iq4_nl": [0], "iq4_xs": [0], "mxfp4": [],
    "iq2_xxs": [0], "iq2_xs": [0], "iq2_s": [0], "iq3_xxs": [0], "iq3_s": [0], "iq1_s": [0], "iq1_m": [], "tq1_0": [52],
    "tq2_0": [64], **{key: [] for key in LEVELS},
}  # fmt: skip
HALVES = [0, 0x8000, 1, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0x7D01]


def blocks(name: str, n: int, depth: int, seed: int = 0, scales: Any = None, size: float = 0.02) -> Array:
    """uint8[n, bytes of a row]: random codes and sub-scales; float16 scales from `scales`, or normal * size."""
    random, kind = np.random.default_rng(seed), STORED[name]
    raw = random.integers(0, 256, (n * depth // kind.block, kind.size), np.uint8)

    def halves() -> Array:
        drawn = (random.standard_normal(len(raw)) * size).astype(np.float16).view(np.uint16)
        return drawn if scales is None else random.choice(np.array(scales, np.uint16), len(raw))

    for at in SCALES[name]:
        raw[:, at : at + 2] = halves().astype("<u2").view(np.uint8).reshape(-1, 2)
    if name in LEVELS:
        raw[:, :4] = halves().view(np.float16).astype("<f4").view(np.uint8).reshape(-1, 4)
    if name == "iq1_m":
        drawn = halves()
        for word in range(4):  # a nibble of the scale at the top of each
            raw[:, 49 + 2 * word] = raw[:, 49 + 2 * word] & 15 | (drawn >> 4 * word & 15) << 4
    if name == "mxfp4":
        raw[:, 0] = random.integers(*((118, 130) if scales is None else (0, 256)), len(raw))
    return raw.reshape(n, -1)


def weights(name: str, n: int, depth: int, seed: int = 0) -> Array:
    """Blocks whose values look like those of a layer."""
    deviation = float(values(name, blocks(name, n, depth, seed)).std())
    return blocks(name, n, depth, seed, size=0.02 / deviation / depth**0.5)


def values(name: str, raw: Array) -> Array:
    """float32 [n, k]: what the blocks mean (tests/model/test_gguf_types.py compares that with the gguf package)."""
    return expand(raw, STORED[name])


FINE = ("q5_0", "q5_1", "q8_0")  # activations have a scale per 32


def quantised(a: Array, name: str) -> tuple[Array, Array]:
    """(codes int64 [m, k], scales float64 [m, k]) of activations, as docs/numerics.md defines them for a type."""
    m, depth = a.shape
    group = 32 if name in FINE else 256 if depth % 256 == 0 else 128
    codes, scales = np.zeros((m, depth), np.int64), np.zeros((m, depth))
    for start in range(0, depth, group):
        part = a[:, start : start + group].astype(np.float32)
        top = np.abs(part).max(axis=1, keepdims=True)
        top = np.where(top < np.float32(2.0**-100), np.float32(0), top)
        with np.errstate(divide="ignore"):
            factor = np.where(top > 0, np.float32(127) / top, np.float32(0)).astype(np.float32)
        codes[:, start : start + group] = np.rint(part * factor).astype(np.int64)
        scales[:, start : start + group] = top / np.float32(127)
    return codes, scales


def product(a: Array, w: Array, name: str) -> Array:
    """float64 [m, n] over the activations as they are quantised for the type `name`, and the weights' exact values."""
    codes, scales = quantised(a, name)
    return (codes * scales) @ w.astype(np.float64).T


def close(got: Array, wanted: Array, a: Array, w: Array, name: str) -> bool:
    """NMSE within 1e-11; only where the terms all but cancel, within a few roundings of their size."""
    if nmse(got, wanted) <= 1e-11:
        return True
    codes, scales = quantised(a, name)
    terms = np.abs(codes * scales) @ np.abs(w.astype(np.float64)).T
    return bool((wanted**2).sum() < (terms**2).sum() / 32**2 and (np.abs(got - wanted) <= 8 * 2.0**-24 * terms).all())


def nmse(got: Array, wanted: Array) -> float:
    power = float((wanted**2).sum())
    return float(((got.astype(np.float64) - wanted) ** 2).sum()) / (power or 1.0)
