"""Quantised safetensors in the packed classes: lossless, near the float32 evaluation, the same bits on every table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantised_writers as writers
from hypothesis import given
from hypothesis import strategies as st
from quantised_writers import Array, draw
from test_quantised import AWQ, GPTQ, Made, R, as_float32, compressed, opened
from tiny import Player, folder, same_bits, some_ids, usable_isas

from lanewise import kernels
from lanewise.errors import LoadError
from lanewise.model.model import Model, describe
from lanewise.model.quantised import QuantisedWeights

Writer = Callable[[np.random.Generator, int, int], Made]
GROUPS = GPTQ | {"group_size": 32}
INT4 = compressed("pack-quantized", num_bits=4, strategy="group", group_size=32)
ZEROS = compressed("pack-quantized", num_bits=4, strategy="group", group_size=32, symmetric=False)
INT8 = compressed("int-quantized", strategy="channel")
FP8 = {"quant_method": "fp8", "weight_block_size": [32, 32]}


def drawn(r: np.random.Generator, n: int, k: int, bits: int, group: int, **fixed: Any) -> writers.Drawn:
    """As writers.draw; scales and zeros may be given for all groups."""
    made = draw(r, n, k, bits, group)
    return replace(made, **{name: np.broadcast_to(np.array(x), made.scales.shape).copy() for name, x in fixed.items()})


def in_blocks(k: int) -> Array:
    """Groups of 64 in any order, each block of 32 in one."""
    order = np.random.default_rng(k).permutation(np.arange(k // 32) // 2)
    return np.repeat(order, 32)


def uneven(r: np.random.Generator, k: int) -> Array:
    """Groups of 32 in any order, but one input is in another's group."""
    order = np.arange(k) // 32
    order[-1] = 0
    return r.permutation(order)


def fp8(scale: float, dtype: str = "F32") -> Writer:
    """All scales are a power of two times `scale`."""

    def made(r: np.random.Generator, n: int, k: int) -> Made:
        parts, values = writers.fp8(r, n, k, (32, 32), "weight_scale_inv", dtype="F8_E8M0")
        powers = np.ldexp(np.float32(scale), parts["weight_scale_inv"][0].astype(np.int32) - 127)
        if dtype == "F8_E8M0":
            return parts, values
        parts["weight_scale_inv"] = writers.stored_scales(powers.astype(np.float32), dtype)[0], dtype
        return parts, (values.astype(np.float64) * np.float64(np.float32(scale))).astype(np.float32)

    return made


# name -> (quantization_config, writer of one matrix, the packed class; None: float32)
CASES: dict[str, tuple[dict[str, Any], Writer, str | None]] = {
    "gptq symmetric": (GROUPS, lambda r, n, k: writers.gptq(drawn(r, n, k, 4, 32, zeros=8)), "q4_0"),
    "gptq": (GROUPS, lambda r, n, k: writers.gptq(draw(r, n, k, 4, 32)), "q5_0"),
    "gptq v2": (
        GROUPS | {"checkpoint_format": "gptq_v2"}, lambda r, n, k: writers.gptq(draw(r, n, k, 4, 32), first=False),
        "q5_0",
    ),
    "gptq one group": (GPTQ | {"group_size": -1}, lambda r, n, k: writers.gptq(draw(r, n, k, 4, k)), "q5_0"),
    "gptq ragged": (GPTQ | {"group_size": 64}, lambda r, n, k: writers.gptq(draw(r, n, k, 4, 64)), "q5_0"),
    "gptq 2 bits": (GROUPS | {"bits": 2}, lambda r, n, k: writers.gptq(draw(r, n, k, 2, 32)), "q4_0"),
    "gptq 3 bits": (GROUPS | {"bits": 3}, lambda r, n, k: writers.gptq(draw(r, n, k, 3, 32)), "q4_0"),
    "gptq 8 bits": (GROUPS | {"bits": 8}, lambda r, n, k: writers.gptq(drawn(r, n, k, 8, 32, zeros=128)), "q8_0"),
    "gptq 8 bits zeros": (GROUPS | {"bits": 8}, lambda r, n, k: writers.gptq(draw(r, n, k, 8, 32)), None),
    "gptq act-order": (
        GROUPS | {"desc_act": True},
        lambda r, n, k: writers.gptq(draw(r, n, k, 4, 32), g_idx=r.permutation(np.arange(k) // 32)), "q5_0",
    ),
    "gptq act-order symmetric": (
        GPTQ | {"group_size": 64, "desc_act": True},
        lambda r, n, k: writers.gptq(drawn(r, n, k, 4, 64, zeros=8), g_idx=r.permutation(np.arange(k) // 64)), "q4_0",
    ),
    "gptq act-order 8 bits": (
        GROUPS | {"bits": 8, "desc_act": True},
        lambda r, n, k: writers.gptq(drawn(r, n, k, 8, 32, zeros=128), g_idx=r.permutation(np.arange(k) // 32)), "q8_0",
    ),
    "gptq act-order groups of 16": (
        GPTQ | {"desc_act": True},
        lambda r, n, k: writers.gptq(draw(r, n, k, 4, 16), g_idx=r.permutation(np.arange(k) // 16)), None,
    ),
    "gptq act-order uneven groups": (
        GROUPS | {"desc_act": True}, lambda r, n, k: writers.gptq(draw(r, n, k, 4, 32), g_idx=uneven(r, k)), None
    ),
    "packed int4 act-order": (
        compressed("pack-quantized", num_bits=4, strategy="group", group_size=32, actorder="group"),
        lambda r, n, k: writers.packed_ints(draw(r, n, k, 4, 32), g_idx=r.permutation(np.arange(k) // 32)), "q4_0",
    ),
    "gptq act-order in order": (
        GROUPS | {"desc_act": True}, lambda r, n, k: writers.gptq(draw(r, n, k, 4, 32), g_idx=np.arange(k) // 32),
        "q5_0",
    ),
    "gptq groups in any order": (
        GPTQ | {"group_size": 64, "desc_act": True},
        lambda r, n, k: writers.gptq(draw(r, n, k, 4, 64), g_idx=in_blocks(k)), "q5_0",
    ),
    "gptq groups of 16": (GPTQ, lambda r, n, k: writers.gptq(draw(r, n, k, 4, 16)), None),
    "gptq scales of bfloat16": (
        GROUPS, lambda r, n, k: writers.gptq(draw(r, n, k, 4, 32), dtype="BF16"), "q5_0"
    ),
    "gptq scales below float16": (
        GROUPS, lambda r, n, k: writers.gptq(drawn(r, n, k, 4, 32, scales=2.0**-25), dtype="BF16"), None
    ),
    "gptq scales above float16": (
        GROUPS, lambda r, n, k: writers.gptq(drawn(r, n, k, 4, 32, scales=2.0**16), dtype="BF16"), None
    ),
    "awq": (AWQ | {"group_size": 32}, lambda r, n, k: writers.awq(draw(r, n, k, 4, 32)), "q5_0"),
    "awq symmetric": (
        AWQ | {"group_size": 32, "zero_point": False},
        lambda r, n, k: writers.awq(draw(r, n, k, 4, 32), zeros=False), "q4_0",
    ),
    "packed int4": (INT4, lambda r, n, k: writers.packed_ints(draw(r, n, k, 4, 32)), "q4_0"),
    "packed int4 zeros": (ZEROS, lambda r, n, k: writers.packed_ints(draw(r, n, k, 4, 32), zeros=True), "q5_0"),
    "packed int4 far zeros": (
        ZEROS,
        lambda r, n, k: writers.packed_ints(drawn(r, n, k, 4, 32, zeros=-100), zeros=True, plain_zeros=True), "q8_0",
    ),
    "packed int4 scales of float32": (
        INT4, lambda r, n, k: writers.packed_ints(draw(r, n, k, 4, 32), dtype="F32"), None
    ),
    "packed int8 rows": (
        compressed("pack-quantized", strategy="channel"), lambda r, n, k: writers.packed_ints(draw(r, n, k, 8, k)),
        "q8_0",
    ),
    "int8 rows": (INT8, lambda r, n, k: writers.plain_ints(draw(r, n, k, 8, k)), "q8_0"),
    "int8 tensor": (
        compressed("int-quantized", strategy="tensor"),
        lambda r, n, k: writers.plain_ints(draw(r, n, k, 8, k), whole=True), "q8_0",
    ),
    "int8 rows zeros": (
        compressed("int-quantized", strategy="channel", symmetric=False),
        lambda r, n, k: writers.plain_ints(draw(r, n, k, 8, k), zeros=True), None,
    ),
    "fp8 powers of two": (FP8, fp8(1.0, "F8_E8M0"), "bfloat16"),
    "fp8 scales of four bits": (FP8, fp8(1.625, "BF16"), "bfloat16"),
    "fp8 scales of five bits": (FP8, fp8(1.0625), "bfloat16"),  # 17 times 15 is 255
    "fp8 scales of five bits, too wide": (FP8, fp8(1.1875), None),
    "fp8 scales of float32": (FP8, fp8(1 / 3), None),
}  # fmt: skip
EXACT = [name for name, case in CASES.items() if case[2] not in (None, "bfloat16")]


def unpacked(weights: QuantisedWeights, format: str) -> Array:
    places = kernels.pack_blocks(weights.blocks("m.weight"), format).unpack()
    order = weights.blocks_order("m.weight")
    if order is None:
        return places
    out = np.empty_like(places)
    out[:, order] = places
    return out


@pytest.mark.parametrize("name", CASES)
def test_class_and_values(name: str, tmp_path: Path) -> None:
    section, writer, format = CASES[name]
    made = writer(R(1), 96, 160)
    weights = opened(tmp_path, section, made)
    assert same_bits(as_float32(weights), made[1])
    assert weights.info("m.weight").dtype == ("BF16" if format == "bfloat16" else "F32")
    assert weights.blocks_format("m.weight") == (None if format == "bfloat16" else format)
    if name in EXACT:
        assert same_bits(unpacked(weights, str(format)), made[1])
    else:
        with pytest.raises(LoadError):
            weights.blocks("m.weight")


@pytest.mark.parametrize("name", EXACT)
@given(n=st.integers(1, 3), blocks=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_blocks_are_lossless(
    name: str, tmp_path_factory: pytest.TempPathFactory, n: int, blocks: int, seed: int
) -> None:
    section, writer, format = CASES[name]
    k = 64 * blocks if "any order" in name else 32 * blocks
    made = writer(R(seed), 32 * n, k)
    weights = opened(tmp_path_factory.mktemp("one"), section, made)
    found = weights.blocks_format("m.weight")
    assert found is not None
    if name != "packed int4 zeros":  # by chance there may be none
        assert found == format or (found, format) == ("q4_0", "q5_0")
    assert same_bits(unpacked(weights, found), made[1])


@pytest.mark.parametrize(("bits", "zero", "format"), [(4, 8, "q4_0"), (4, 3, "q5_0"), (8, 128, "q8_0")])
def test_every_code_beside_extreme_scales(bits: int, zero: int, format: str, tmp_path: Path) -> None:
    """All codes; scales of float16 of both signs, subnormal, greatest and zero."""
    halves = np.array([1, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0, 0x8000], np.uint16)
    scales = np.tile(halves.view(np.float16).astype(np.float64), 16)[:, None] * np.ones((1, 8))
    codes = np.arange(256)[None].repeat(len(scales), 0) % (1 << bits)
    made = writers.gptq(writers.Drawn(codes, scales, np.full(scales.shape, zero), 32, bits))
    weights = opened(tmp_path, GROUPS | {"bits": bits}, made)
    assert weights.blocks_format("m.weight") == format
    assert same_bits(unpacked(weights, format), made[1])


@given(seed=st.integers(0, 2**32 - 1))
def test_mxfp4_but_for_the_sign_of_zero(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    made = writers.mxfp4(R(seed), 40, 5)
    weights = opened(tmp_path_factory.mktemp("one"), {"quant_method": "mxfp4"}, made)
    assert weights.blocks_format("m.weight") == "mxfp4"
    assert same_bits(unpacked(weights, "mxfp4"), made[1] + np.float32(0))


def test_mxfp4_that_may_be_infinite(tmp_path: Path) -> None:
    parts, _ = writers.mxfp4(R(1), 4, 2)
    parts["_scales"][0][1, 1] = 253
    weights = opened(tmp_path, {"quant_method": "mxfp4"}, (parts, np.empty((4, 64))))
    assert weights.blocks_format("m.weight") is None


@pytest.mark.parametrize("name", ["gptq", "fp8 scales of five bits"])
def test_a_scale_that_is_not_finite(name: str, tmp_path: Path) -> None:
    section, writer, _ = CASES[name]
    parts, values = writer(R(1), 32, 64)
    part = "scales" if name == "gptq" else "weight_scale_inv"
    parts[part][0][-1, -1] = np.nan
    weights = opened(tmp_path, section, (parts, values))
    with pytest.raises(LoadError, match="not finite") as caught:
        weights.blocks_format("m.weight")
    assert caught.value.field == f"m.{part}"


# ---- whole models ----

MODELS = ["gptq symmetric", "gptq", "awq", "packed int4", "int8 rows", "fp8 powers of two"]


def nmse(got: Any, wanted: Any) -> float:
    return float(((got - wanted) ** 2).sum() / (wanted**2).sum())


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Near the float32 evaluation (the activations have 8 bits), and the same bits on every table, in any pieces."""
    section, writer, format = CASES[name]
    rng = R(len(name))
    source = folder(tmp_path_factory, "llama-wide")
    held, plain = writers.pair(source, tmp_path, section, lambda m, n, k: None if m == "lm_head" else writer(rng, n, k))
    ids = some_ids(60, 300)
    wanted = Player(Model.load(plain, threads=1)).feed(ids)
    assert same_bits(Player(Model.load(held, threads=1, dtype="float32")).feed(ids), wanted)
    formats = describe(held)["formats"]
    assert set(formats) == {format, "float32"}  # embedding and head are not quantised
    plainly = {"numerics": "exact", "kv_dtype": "float32"}
    model = Model.load(held, threads=2, **plainly)
    assert model.weight_bytes == sum(formats.values())
    own = Player(model).feed(ids)
    if format == "bfloat16":
        assert same_bits(own, wanted)
    else:
        assert 0 < nmse(own, wanted) < 2e-3
    assert same_bits(Player(model).feed(ids, [1, 40, 1, 18]), own)
    for isa in usable_isas():
        assert same_bits(Player(Model.load(held, isa=isa, **plainly)).feed(ids), own)
