"""The quantiser: what its blocks decode to, its error against plain rounding, and the same bits in any pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lanewise.model import quantize
from lanewise.model.gguf_types import E2M1, IQ4
from lanewise.model.quantize import WRITABLE, dequantize_rows, quantize_rows
from lanewise.model.quantize_256 import lengthened
from lanewise.model.quantize_search import Columns

Floats = np.ndarray[Any, np.dtype[np.float32]]
BLOCKS = [name for name in WRITABLE if name not in ("F32", "F16", "BF16")]
LENGTHENED = ("Q2_K", "Q3_K")  # their scales are enlarged after the search
SYMMETRIC = {"Q4_0": -8, "Q5_0": -16, "Q8_0": 127}  # the code that the greatest number gets


def random_rows(n: int, k: int, seed: int = 0, spread: float = 0.0) -> Floats:
    """Gaussian numbers; spread: how different the sizes of neighbouring stretches are."""
    random = np.random.default_rng(seed)
    sizes = np.exp(spread * random.standard_normal((n, -(-k // 16)))).repeat(16, axis=1)[:, :k]
    return (random.standard_normal((n, k)) * sizes * 0.02).astype(np.float32)


def errors(x: Floats, decoded: Any, size: int, w: Any = 1.0) -> Any:
    """Weighted squared error of each block."""
    return (w * (x.astype(np.float64) - decoded) ** 2).reshape(-1, size).sum(axis=1)


def half(v: Any) -> Any:
    """Rounded to float16, the greatest one where it would be infinite."""
    return np.clip(v, -65504, 65504).astype(np.float16).astype(np.float64)


def plain_32(x: Floats, name: str) -> Any:
    """Plain rounding in float64, scales as float16: the greatest number gets the outermost code."""
    blocks = x.astype(np.float64).reshape(-1, 32)
    greatest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    if name in ("Q4_1", "Q5_1"):
        low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
        most = {"Q4_1": 15, "Q5_1": 31}[name]
        d, m = half((high - low) / most), half(low)
        return (np.clip(np.rint((blocks - m) / np.where(d, d, 1)), 0, most) * d + m).reshape(x.shape)
    if name in ("IQ4_NL", "MXFP4"):
        values = np.array(IQ4 if name == "IQ4_NL" else E2M1, np.float64)
        d = half(greatest / -127)
        if name == "MXFP4":
            d = 2.0 ** (np.floor(np.log2(np.abs(np.where(greatest, greatest, 1)))) - 3)
        at = np.abs((blocks / np.where(d, d, 1))[:, :, None] - values).argmin(axis=2)
        return (values[at] * d).reshape(x.shape)
    top = SYMMETRIC[name]
    d = half(greatest / top)
    codes = np.clip(np.rint(blocks / np.where(d, d, 1)), -abs(top), abs(top) - (top < 0))
    return (codes * d).reshape(x.shape)


def plain_256(x: Floats, name: str) -> Any:
    """The same for two levels of scales: those of the parts rounded to whole numbers of the block's."""
    part, low, high, parts_low, parts_high = {
        "Q2_K": (16, 0, 3, 0, 15), "Q4_K": (32, 0, 15, 0, 63), "Q5_K": (32, 0, 31, 0, 63),
        "Q3_K": (16, -4, 3, -32, 31), "Q6_K": (16, -32, 31, -128, 127), "IQ4_XS": (32, -127, 113, -32, 31),
    }[name]  # fmt: skip
    blocks = x.astype(np.float64).reshape(-1, 256 // part, part)

    def rounded(scales: Any) -> Any:
        greatest = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)
        d = half(greatest / (parts_low or parts_high))
        return np.clip(np.rint(scales / np.where(d, d, 1)), parts_low, parts_high) * d

    if low < 0:
        greatest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[..., None], axis=2)[..., 0]
        scale, minimum = rounded(greatest / low)[..., None], 0.0
    else:
        least = np.minimum(blocks.min(axis=2), 0)
        scale = rounded((blocks.max(axis=2) - least) / high)[..., None]
        minimum = -rounded(-least)[..., None]
    ratio = (blocks - minimum) / np.where(scale, scale, 1)
    codes = np.clip(np.rint(ratio), low, high)
    if name == "IQ4_XS":
        codes = np.array(IQ4, np.float64)[np.abs(ratio[..., None] - np.array(IQ4)).argmin(axis=3)]
    return (codes * scale + minimum).reshape(x.shape)


@pytest.mark.parametrize("name", WRITABLE)
def test_blocks_decode_as_the_reference_does(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    blocks = quantize_rows(random_rows(33, 768, 1, 2.0), name)
    kind = gguf.GGMLQuantizationType[name]
    stored = blocks.view({"F32": np.float32, "F16": np.float16}.get(name, np.uint8))
    expected = gguf.quants.dequantize(stored, kind).astype(np.float32)
    assert np.array_equal(dequantize_rows(blocks, name).view(np.uint32), expected.view(np.uint32))
    assert blocks.shape == (33, gguf.quants.quant_shape_to_byte_shape((768,), kind)[0])


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_short_floats_are_rounded_as_the_reference_does(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    x = random_rows(16, 64, 2, 3.0)
    expected = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name])
    assert np.array_equal(quantize_rows(x, name), expected.view(np.uint8).reshape(16, -1))


@settings(max_examples=120)
@given(
    st.sampled_from(BLOCKS), st.integers(0, 1 << 30), st.floats(0, 3), st.sampled_from([1e-6, 1.0, 1e4]), st.booleans()
)
def test_no_block_is_worse_than_plain_rounding(
    name: str, seed: int, spread: float, scale: float, weighted: bool
) -> None:
    x = random_rows(4, 512, seed, spread) * np.float32(scale)
    x[np.random.default_rng(seed).random(x.shape) < 0.1] = 0
    size = 256 if name in quantize.quantize_256.QUANTIZERS else 32
    plain = plain_256(x, name) if size == 256 else plain_32(x, name)
    w = np.random.default_rng(seed).lognormal(0, 1.5, 512) if weighted else None
    factor = 1.0 if w is None else w
    ours = errors(x, dequantize_rows(quantize_rows(x, name, w), name), size, factor)
    bound, zero = errors(x, plain, size, factor), errors(x, 0, size, factor)
    if name in LENGTHENED:  # y times <x, x> / <x, y>: from an error e of the squares to e / (1 - e), or 1.3 of that
        share = np.clip(bound / np.where(zero, zero, 1), 0, 1 - 1 / 1.3)
        bound = bound / (1 - share) + 1e-4 * zero
    # Errors are compared in float32 while searching, so two of the same size can be mistaken for each other.
    assert (ours <= bound * (1 + 1e-5) + 1e-12 * zero).all()


@pytest.mark.parametrize("name", LENGTHENED)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", [0.1, 1.0, 1e4])
def test_few_bits_do_not_shorten_the_weights(name: str, weighted: bool, scale: float) -> None:
    """Least squares alone leaves 0.93 of the length along x with Q2_K, 0.98 with Q3_K."""
    w = np.random.default_rng(14).lognormal(0, 1.5, 1024) if weighted else np.ones(1024)
    for x in (random_rows(32, 1024, 15), np.random.default_rng(16).laplace(size=(32, 1024)).astype(np.float32)):
        x *= np.float32(scale)
        decoded = dequantize_rows(quantize_rows(x, name, w), name).astype(np.float64)
        along, whole = ((w * x * y).reshape(-1, 256).sum(axis=1) for y in (decoded, x.astype(np.float64)))
        assert np.abs(along / whole - 1).max() < 0.01
        assert abs((along / whole).mean() - 1) < 1e-3


def test_what_is_not_lengthened() -> None:
    """Blocks that would grow by a third or more, that have no length, and scales that float16 says too coarsely."""
    c = Columns(np.tile(np.float32([1, 0.5, -1, 0]), (16, 4)), None)  # four blocks of four parts
    exponent = np.zeros(4, np.int32)
    for share, d, grown in (
        (0.5, 1, False), (0.9, 1, True), (1.1, 1, False), (-0.9, 1, False), (0, 1, False), (0.9, 2.0**-20, False),
        (0.9, 2.0**-16, True), (0.9, 65504, False), (0.8, 0, False),
    ):  # fmt: skip
        stored = np.full(4, d, np.float32)
        (found,) = lengthened(c, exponent, [stored], [c.x * np.float32(share / (d or 1))])
        assert (np.abs(found / (stored / share) - 1).max() < 2e-3) if grown else np.array_equal(found, stored), (
            share,
            d,
        )


def test_q8_0_leaves_the_code_minus_128_out() -> None:
    """ggml's encoder never writes it, and ik_llama.cpp's products overflow on it."""
    x = np.concatenate(
        [random_rows(64, 256, spread=1.0), -np.abs(random_rows(64, 256, 1, 3.0)), random_rows(4, 256) * 1e38]
    )
    codes = quantize_rows(x, "Q8_0").reshape(-1, 34)[:, 2:].view(np.int8)
    assert codes.min() == -127
    assert codes.max() == 127


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_gaussian_error_is_well_below_the_reference_quantiser(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    x, kind = random_rows(64, 1024, 3), gguf.GGMLQuantizationType[name]
    theirs = gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind)
    ours = dequantize_rows(quantize_rows(x, name), name)
    assert errors(x, ours, x.size)[0] <= (0.96 if name == "MXFP4" else 0.9) * errors(x, theirs, x.size)[0]


@pytest.mark.parametrize("name", BLOCKS)
def test_importance_moves_the_error_where_it_matters_less(name: str) -> None:
    x = random_rows(64, 1024, 4)
    w = np.random.default_rng(5).random(1024) ** 6
    weighted = dequantize_rows(quantize_rows(x, name, w), name)
    even = dequantize_rows(quantize_rows(x, name), name)
    assert errors(x, weighted, x.size, w)[0] < 0.97 * errors(x, even, x.size, w)[0]
    same = quantize_rows(x, name, np.full(1024, 3.5))
    assert np.array_equal(same, quantize_rows(x, name)), "equal weights are no weights"


@pytest.mark.parametrize("name", BLOCKS)
def test_the_same_bits_in_any_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = random_rows(37, 768, 6, 1.0), np.random.default_rng(7).random(768)
    whole = quantize_rows(x, name, w, threads=1)
    assert np.array_equal(whole, np.concatenate([quantize_rows(row[None], name, w) for row in x]))
    for piece in (256, 1024, 5000):
        monkeypatch.setattr(quantize, "PIECE", piece)
        assert np.array_equal(whole, quantize_rows(x, name, w, threads=3)), piece


@settings(max_examples=40)
@given(
    st.sampled_from(BLOCKS),
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=64),
    st.booleans(),
)
@example("MXFP4", [3e38], False)
@example("Q4_K", [0.0], True)
@example("Q2_K", [1e-45, -1e-45], True)
def test_any_finite_numbers_give_finite_ones(name: str, numbers: list[float], weighted: bool) -> None:
    x = np.resize(np.array(numbers, np.float32), (1, 256))
    w = np.arange(256) % 3 / 2 if weighted else None
    decoded = dequantize_rows(quantize_rows(x, name, w), name)
    assert np.isfinite(decoded).all()
    if not x.any():
        assert not decoded.any()


def test_one_outlier_is_kept() -> None:
    """It decides the scale; everything else in its block may be lost, nothing outside is."""
    x = random_rows(2, 512, 8)
    x[0, 40] = 1e4
    for name in BLOCKS:
        size = 256 if name in quantize.quantize_256.QUANTIZERS else 32
        decoded = dequantize_rows(quantize_rows(x, name), name)
        assert abs(decoded[0, 40] / 1e4 - 1) < 0.25, name
        assert errors(x, decoded, size)[512 // size :].max() < 0.2 * errors(x, 0, size)[512 // size :].min(), name


def test_zeros_stay_zeros() -> None:
    for name in WRITABLE:
        assert not dequantize_rows(quantize_rows(np.zeros((3, 256), np.float32), name), name).any()


def test_what_is_refused() -> None:
    x = random_rows(4, 256)
    for bad in (np.nan, np.inf, -np.inf):
        wrong = x.copy()
        wrong[2, 77] = bad
        for name in ("Q4_0", "Q4_K", "F16", "F32"):
            with pytest.raises(ValueError, match=r"the weight at \[2, 77\] is"):
                quantize_rows(wrong, name)
    wrong = x.copy()
    wrong[1, 3] = 1e6
    with pytest.raises(ValueError, match=r"\[1, 3\] is 1000000.0, too large for F16"):
        quantize_rows(wrong, "F16")
    wrong[1, 3] = np.finfo(np.float32).max
    with pytest.raises(ValueError, match=r"\[1, 3\] .*too large for BF16"):
        quantize_rows(wrong, "BF16")
    with pytest.raises(ValueError, match="'IQ2_XS' is no type that can be written; known: F32"):
        quantize_rows(x, "IQ2_XS")
    with pytest.raises(ValueError, match="no whole number of Q4_K blocks of 256"):
        quantize_rows(x[:, :128].copy(), "q4_k")
    with pytest.raises(ValueError, match="float64"):
        quantize_rows(x.astype(np.float64), "Q4_0")
    for importance, message in ((np.ones(7), r"\[256\], not \[7\]"), (-np.ones(256), "column 0 is -1.0")):
        with pytest.raises(ValueError, match=message):
            quantize_rows(x, "Q4_0", importance)


def test_no_rows() -> None:
    assert quantize_rows(np.empty((0, 64), np.float32), "Q4_0").shape == (0, 36)
    assert np.array_equal(quantize_rows(np.ones((1, 32), np.float32), "Q8_0", np.zeros(32)),
                          quantize_rows(np.ones((1, 32), np.float32), "Q8_0"))  # fmt: skip
