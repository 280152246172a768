"""Frequencies against transformers, bit for bit; the power, which is ours, against exact arithmetic."""

# ruff: noqa: E501, PT018 (tables of cases, and facts that belong together)

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from lanewise.model.rope import KINDS, Scaling, frequencies, make_rope, power

CASES: list[tuple[str, dict[str, Any]]] = [
    ("default", {}),
    ("linear", {"factor": 4.0}),
    ("linear", {"factor": 2.7}),
    ("dynamic", {"factor": 2.0}),
    ("dynamic", {"factor": 3.3}),
    ("llama3", {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}),
    ("llama3", {"factor": 32.0, "low_freq_factor": 1.5, "high_freq_factor": 3.7, "original_max_position_embeddings": 512}),
    ("yarn", {"factor": 4.0, "original_max_position_embeddings": 32768}),
    ("yarn", {"factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 16.0, "beta_slow": 2.0,
              "mscale": 0.707, "mscale_all_dim": 1.1}),
    ("yarn", {"factor": 8.0, "original_max_position_embeddings": 1024, "truncate": False}),
    ("yarn", {"factor": 8.0, "original_max_position_embeddings": 1024, "attention_factor": 1.25}),
]  # fmt: skip
SIZES = [(10000.0, 8), (10000.0, 128), (500000.0, 64), (1000000.0, 96), (123456.789, 112), (1e8, 256)]
CONTEXT = 131072


def reference(kind: str, given: dict[str, Any], theta: float, dim: int, length: int | None = None) -> tuple[Any, float]:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = transformers.LlamaConfig(
        hidden_size=4 * dim, num_attention_heads=4, head_dim=dim, max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": kind, "rope_theta": theta, **given},
    )  # fmt: skip
    if kind == "default":
        values, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        # A forward gives the length as a tensor.
        length_given = {} if length is None else {"seq_len": torch.tensor(length)}
        values, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), **length_given)
    return values.float().numpy(), factor


def scaling_of(kind: str, given: dict[str, Any]) -> Scaling:
    known = dict(given)
    original = known.pop("original_max_position_embeddings", CONTEXT)
    return Scaling(kind=kind, original=original, **known)  # type: ignore[arg-type]


def rounded_pow(torch: Any) -> tuple[Any, Any]:
    """A stand-in for PyTorch's `number ** tensor` and `tensor ** number` that rounds correctly."""

    def rpow(exponents: Any, base: float) -> Any:
        return torch.from_numpy(power(float(base), exponents.numpy()))

    def pow_(base: Any, exponent: Any) -> Any:
        if isinstance(exponent, torch.Tensor):
            return rpow(exponent, float(base))
        return torch.tensor(power(float(base), np.array([exponent], np.float32))[0])

    return rpow, pow_


@pytest.mark.parametrize(("theta", "dim"), SIZES)
@pytest.mark.parametrize(("kind", "given"), CASES)
def test_equals_transformers_bit_for_bit(
    kind: str, given: dict[str, Any], theta: float, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the power rounded correctly on both sides, every bit is the same."""
    torch = pytest.importorskip("torch")
    rpow, pow_ = rounded_pow(torch)
    monkeypatch.setattr(torch.Tensor, "__rpow__", rpow)
    monkeypatch.setattr(torch.Tensor, "__pow__", pow_)
    for length in (None, CONTEXT // 2, CONTEXT + 1, 3 * CONTEXT) if kind == "dynamic" else (None,):
        expected, expected_factor = reference(kind, given, theta, dim, length)
        got, factor = frequencies(theta, dim, scaling_of(kind, given), length or 0)
        assert got.dtype == np.float32 and got.shape == (dim // 2,)
        assert np.array_equal(got.view(np.uint32), expected.view(np.uint32))
        assert factor == expected_factor


@pytest.mark.parametrize(("theta", "dim"), SIZES)
@pytest.mark.parametrize(("kind", "given"), CASES)
def test_differs_from_transformers_by_torchs_pow_at_most(
    kind: str, given: dict[str, Any], theta: float, dim: int
) -> None:
    """As PyTorch is: its pow is within 1 ulp, a division may add one more (2 are the most that was seen)."""
    expected, factor = reference(kind, given, theta, dim)
    got, own_factor = frequencies(theta, dim, scaling_of(kind, given))
    distance = np.abs(got.view(np.int32).astype(np.int64) - expected.view(np.int32))
    assert distance.max() <= 3
    assert own_factor == factor


def test_power_is_correctly_rounded() -> None:
    """theta ** (p/q) against exact rationals: x is right when ((x -+ half an ulp) ** q) brackets theta ** p."""
    for theta in (10000, 500000, 1000000, 123457):
        for dim in (8, 32, 64):
            exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)  # exact: dim is a power of two
            for x, exponent in zip(power(theta, exponents), exponents, strict=True):
                e = Fraction(float(exponent))
                half = Fraction(float(np.spacing(x))) / 2
                exact = Fraction(theta) ** e.numerator
                assert (
                    (Fraction(float(x)) - half) ** e.denominator
                    <= exact
                    <= (Fraction(float(x)) + half) ** e.denominator
                )


def test_dynamic_is_plain_up_to_the_original_length_and_fixed_beyond() -> None:
    scaling = Scaling("dynamic", factor=2.0, original=1024)
    rope = make_rope(10000.0, 64, scaling)
    plain = make_rope(10000.0, 64)
    assert rope.dynamic is scaling and plain.dynamic is None
    assert rope.inv_freq == plain.inv_freq == rope.at_context(1).inv_freq == rope.at_context(1024).inv_freq
    assert rope.at_context(1025).inv_freq != plain.inv_freq
    assert rope.at_context(4096).at_context(512).inv_freq == plain.inv_freq
    assert plain.at_context(10**6) is plain


@pytest.mark.parametrize("kind", KINDS)
def test_bad_parameters(kind: Any) -> None:
    scaling = Scaling(kind, factor=2.0, original=1024)
    for theta, dim in ((0.0, 64), (-1.0, 64), (math.nan, 64), (math.inf, 64), (10000.0, 0), (10000.0, 7)):
        with pytest.raises(ValueError, match=r"rotary dimension|rope_theta"):
            frequencies(theta, dim, scaling)


def test_undefined_scalings() -> None:
    for scaling, theta, dim in (
        (Scaling("yarn", factor=2.0, original=1024), 1.0, 64),
        (Scaling("dynamic", factor=2.0, original=1024), 10000.0, 2),
        (Scaling("linear", factor=1e30), 1e30, 64),
    ):
        with pytest.raises(ValueError, match="rope scaling"):
            frequencies(theta, dim, scaling, 2048)


def test_dynamic_of_one_pair_is_refused_at_once() -> None:
    """Found by fuzzing: its base divides by dim - 2, which showed only when a longer context was asked for."""
    with pytest.raises(ValueError, match="at least 4"):
        make_rope(10000.0, 2, Scaling("dynamic", factor=2.0, original=1024))


def test_dynamic_far_beyond_every_finite_frequency() -> None:
    rope = make_rope(1e36, 64, Scaling("dynamic", factor=8.0, original=2))
    with pytest.raises(ValueError, match="dynamic rope scaling"):
        rope.at_context(2**20)
