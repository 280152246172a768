"""Frequencies of rotary embeddings: which angle each pair of a head's channels turns by, per position.

Plain: RoFormer (Su et al., 2021, arXiv 2104.09864). Scaling, as Hugging Face transformers defines it in
`modeling_rope_utils.py` (ROPE_INIT_FUNCTIONS; 5.23.0 was compared):
`linear` position interpolation (Chen et al., 2023, arXiv 2306.15595); `dynamic` NTK-aware scaling;
`yarn` (Peng et al., 2023, arXiv 2309.00071); `llama3` (Llama 3.1's smoothing between two wavelengths).

Every step is done in float32, in the order of that reference, so that the result is its result bit for bit, with one
exception made on purpose: the power `theta ** x` is correctly rounded here. The reference takes PyTorch's `pow`, which
is off by one unit in the last place for about one value in eighty, and for different ones on different CPUs;
ours is the same on every machine.

`dynamic` changes the base with the length of the sequence. A length that grows would change keys already in the cache,
and a chunked prefill would differ from a whole one. So here the length is the context that the model is loaded with:
up to the original length the frequencies are the plain ones; for a longer context they equal the reference's for one
forward of exactly that length, at every position.
"""

from __future__ import annotations

import decimal
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
Kind = Literal["default", "linear", "dynamic", "llama3", "yarn"]
KINDS: tuple[Kind, ...] = ("default", "linear", "dynamic", "llama3", "yarn")
_F = np.float32


@dataclass(frozen=True, slots=True)
class Scaling:
    """The parameters of a rope, as config.json gives them. Those that `kind` does not use stay at their defaults."""

    kind: Kind = "default"
    factor: float = 1.0
    original: int = 0  # original_max_position_embeddings; for `dynamic`: max_position_embeddings
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class Rope:
    """What the engine needs: channel pair j of a head turns by position * inv_freq[j].

    dim: channels that turn, the first of the head (even). pairing: "half" turns channel j with j + dim/2,
    "interleaved" 2j with 2j + 1. inv_freq: dim/2 values, each exactly a float32. attention_factor: cos and sin are
    multiplied by it. scaling: where the values come from; None only for hand-made ropes.
    """

    theta: float
    dim: int
    pairing: Literal["half", "interleaved"]
    inv_freq: tuple[float, ...]
    attention_factor: float = 1.0
    scaling: Scaling = Scaling()

    @property
    def dynamic(self) -> Scaling | None:
        """The scaling if the frequencies depend on the context length, else None."""
        return self.scaling if self.scaling.kind == "dynamic" else None

    def at_context(self, length: int) -> Rope:
        """The rope of a model loaded with a context of `length` tokens: itself, unless it is dynamic.

        Raises ValueError if a dynamic base grows past every finite frequency at that length.
        """
        if self.dynamic is None:
            return self
        values, factor = frequencies(self.theta, self.dim, self.scaling, length)
        return replace(self, inv_freq=as_floats(values), attention_factor=factor)


def make_rope(
    theta: float, dim: int, scaling: Scaling = Scaling(), pairing: Literal["half", "interleaved"] = "half"
) -> Rope:
    """The rope of `dim` channels with base `theta`; a dynamic one as for its original length."""
    values, factor = frequencies(theta, dim, scaling)
    return Rope(theta, dim, pairing, as_floats(values), factor, scaling)


def as_floats(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def frequencies(theta: float, dim: int, scaling: Scaling, length: int = 0) -> tuple[Floats, float]:
    """(inv_freq float32[dim/2], attention factor). `length` is the context, which only `dynamic` looks at.

    Raises ValueError for a theta, dim or parameter that gives no finite positive frequencies.
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"the rotary dimension is {dim}, not an even number from 2 on")
    if not (math.isfinite(theta) and theta > 0):
        raise ValueError(f"rope_theta is {theta}, not a positive number")
    try:
        with np.errstate(all="ignore"):
            values, factor = _RULES[scaling.kind](theta, dim, scaling, length)
    except (ArithmeticError, ValueError) as error:
        raise ValueError(f"{scaling.kind} rope scaling with these parameters is not defined ({error})") from None
    values = np.asarray(values, _F)
    if not (np.isfinite(values).all() and (values > 0).all() and math.isfinite(factor) and factor > 0):
        raise ValueError(f"{scaling.kind} rope scaling with these parameters gives no finite positive frequencies")
    return values, factor


def power(base: float, exponents: Floats) -> Floats:
    """float32(base) ** exponents, each correctly rounded to float32, on every machine alike."""
    with decimal.localcontext(decimal.Context(prec=40)) as context:
        log = context.ln(decimal.Decimal(float(_F(base))))
        return np.array([float(context.exp(log * decimal.Decimal(float(x)))) for x in exponents], _F)


def _powers(theta: float, dim: int) -> Floats:
    """theta ** (2j / dim) for j < dim/2."""
    return power(theta, np.arange(0, dim, 2, dtype=_F) / _F(dim))


def _default(theta: float, dim: int, scaling: Scaling, length: int) -> tuple[Floats, float]:
    return _F(1) / _powers(theta, dim), 1.0


def _linear(theta: float, dim: int, scaling: Scaling, length: int) -> tuple[Floats, float]:
    return _F(1) / _powers(theta, dim) / _F(scaling.factor), 1.0


def _dynamic(theta: float, dim: int, scaling: Scaling, length: int) -> tuple[Floats, float]:
    if dim < 4:  # the base grows by a power of dim / (dim - 2)
        raise ValueError(f"the rotary dimension is {dim}, and must be at least 4")
    if length > scaling.original:
        # In a forward the reference has the length as a tensor, so its base is computed in float32.
        stretch = _F(scaling.factor) * _F(length) / _F(scaling.original) - _F(scaling.factor - 1)
        theta = float(power(float(stretch), np.array([dim / (dim - 2)], _F))[0] * _F(theta))
    return _F(1) / _powers(theta, dim), 1.0


def _llama3(theta: float, dim: int, scaling: Scaling, length: int) -> tuple[Floats, float]:
    low, high, old = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original
    plain = _F(1) / _powers(theta, dim)
    turn = (_F(1) / plain) * _F(2 * math.pi)  # wavelength; PyTorch divides a number by a tensor so
    slow, fast = turn > _F(old / low), turn < _F(old / high)
    scaled = np.where(slow, plain / _F(scaling.factor), plain)
    smooth = ((_F(1) / turn) * _F(old) - _F(low)) / _F(high - low)
    blend = (_F(1) - smooth) * scaled / _F(scaling.factor) + smooth * scaled
    return np.where(~fast & ~slow, blend, scaled), 1.0


def _yarn(theta: float, dim: int, scaling: Scaling, length: int) -> tuple[Floats, float]:
    def magnitude(scale: float, mscale: float = 1.0) -> float:
        return 1.0 if scale <= 1 else 0.1 * mscale * math.log(scale) + 1.0

    def channel(rotations: float) -> float:  # the pair that makes so many rotations within the original length
        return (dim * math.log(scaling.original / (rotations * 2 * math.pi))) / (2 * math.log(theta))

    attention = scaling.attention_factor
    if attention is None and scaling.mscale and scaling.mscale_all_dim:
        attention = magnitude(scaling.factor, scaling.mscale) / magnitude(scaling.factor, scaling.mscale_all_dim)
    elif attention is None:
        attention = magnitude(scaling.factor)

    low, high = channel(scaling.beta_fast), channel(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    high = high + 0.001 if low == high else high

    powers = _powers(theta, dim)
    ramp = np.clip((np.arange(dim // 2, dtype=_F) - _F(low)) / _F(high - low), _F(0), _F(1))
    keep = _F(1) - ramp
    extended = _F(1) / (_F(scaling.factor) * powers)
    return extended * (_F(1) - keep) + _F(1) / powers * keep, float(attention)


_RULES = {"default": _default, "linear": _linear, "dynamic": _dynamic, "llama3": _llama3, "yarn": _yarn}
