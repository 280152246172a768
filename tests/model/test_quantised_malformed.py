"""Quantised checkpoints that must be refused: by what config.json says, by shapes, and by values."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantised_writers as writers
from quantised_writers import Array, Parts, draw
from test_quantised import AWQ, GPTQ, Made, R, compressed, full, opened
from tiny import folder

from lanewise.errors import LoadError, UnsupportedError
from lanewise.model.config import Config
from lanewise.model.model import Model, describe
from lanewise.model.quantised import read_scheme

N, K = 32, 64
FP8 = {"quant_method": "fp8", "weight_block_size": [32, 32]}
PACKED = {"num_bits": 4, "strategy": "group", "group_size": 16}
SECTION = "quantization_config."
GROUP = SECTION + "config_groups.group_0."


def group(format: str = "pack-quantized", **changes: Any) -> dict[str, Any]:
    return compressed(format, **(PACKED | changes))


CONFIGS: dict[str, tuple[Any, str]] = {
    "a list": ([1], "quantization_config"),
    "no method": ({"bits": 4}, SECTION + "quant_method"),
    "method a number": ({"quant_method": 4}, SECTION + "quant_method"),
    "method unknown": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, SECTION + "quant_method"),
    "method of a megabyte": ({"quant_method": "x" * 2**20}, SECTION + "quant_method"),
    "gptq without bits": ({"quant_method": "gptq"}, SECTION + "bits"),
    **{f"gptq bits {bits}": (GPTQ | {"bits": bits}, SECTION + "bits")
       for bits in (0, 1, 5, 6, 16, -4, 2**70, 4.0, "4", True)},
    "gptq planes of bits": (GPTQ | {"bits": 3, "checkpoint_format": "gptq_p"}, SECTION + "checkpoint_format"),
    **{f"gptq group {size}": (GPTQ | {"group_size": size}, SECTION + "group_size")
       for size in (0, -2, 2**40, 1.5, "128")},
    "gptq marlin": (GPTQ | {"checkpoint_format": "marlin"}, SECTION + "checkpoint_format"),
    "gptq bitblas": (GPTQ | {"format": "bitblas"}, SECTION + "format"),
    "gptq in order of marlin": (GPTQ | {"is_marlin_format": True}, SECTION + "is_marlin_format"),
    "gptq words of 16": (GPTQ | {"pack_dtype": "int16"}, SECTION + "pack_dtype"),
    "gptq desc_act a string": (GPTQ | {"desc_act": "no"}, SECTION + "desc_act"),
    "gptq sym null object": (GPTQ | {"sym": {}}, SECTION + "sym"),
    "awq bits 8": (AWQ | {"bits": 8}, SECTION + "bits"),
    "awq w_bit 3": ({"quant_method": "awq", "w_bit": 3}, SECTION + "w_bit"),
    "awq group 0": (AWQ | {"group_size": 0}, SECTION + "group_size"),
    "awq gemv": (AWQ | {"version": "gemv"}, SECTION + "version"),
    "awq version a list": (AWQ | {"version": ["gemm"]}, SECTION + "version"),
    "awq zero_point 1": (AWQ | {"zero_point": 1}, SECTION + "zero_point"),
    "fp8 e5m2": (FP8 | {"fmt": "e5m2"}, SECTION + "fmt"),
    "fp8 activations": (FP8 | {"activation_scheme": "none"}, SECTION + "activation_scheme"),
    **{f"fp8 block {i}": (FP8 | {"weight_block_size": block}, SECTION + "weight_block_size")
       for i, block in enumerate(([0, 128], [128], [128, -1], 128, [1.0, 2], [True, 1], [2**62, 2**62], "ab"))},
    "no groups": ({"quant_method": "compressed-tensors", "format": "int-quantized"}, SECTION + "config_groups"),
    "groups a list": (compressed("int-quantized") | {"config_groups": [1]}, SECTION + "config_groups"),
    "group a string": (compressed("int-quantized") | {"config_groups": {"W4A16": "x"}},
                       SECTION + "config_groups.W4A16"),
    "too many groups": (compressed("int-quantized") | {"config_groups": {str(i): {} for i in range(300)}},
                        SECTION + "config_groups"),
    "groups without weights": (compressed("int-quantized") | {"config_groups": {"a": {"weights": None}}},
                               SECTION + "config_groups"),
    "format unknown": (group("marlin-24"), SECTION + "format"),
    "format nvfp4": (group("nvfp4-pack-quantized"), SECTION + "format"),
    "format dense": (group("dense"), SECTION + "format"),
    "format missing": ({k: v for k, v in group().items() if k != "format"}, SECTION + "format"),
    "packed bits 5": (group(num_bits=5), GROUP + "weights.num_bits"),
    "packed floats": (group(type="float", num_bits=8), GROUP + "weights.num_bits"),
    "plain int4": (group("int-quantized"), GROUP + "weights.num_bits"),
    "float of 4 bits": (group("float-quantized", type="float"), GROUP + "weights.num_bits"),
    "float format, int type": (group("float-quantized", num_bits=8), GROUP + "weights.type"),
    "type complex": (group(type="complex"), GROUP + "weights.type"),
    "strategy token": (group(strategy="token"), GROUP + "weights.strategy"),
    "strategy block of int": (group(strategy="block"), GROUP + "weights.strategy"),
    "strategy group without size": (group(group_size=None), GROUP + "weights.group_size"),
    "strategy group of all": (group(group_size=-1), GROUP + "weights.group_size"),
    "strategy block without blocks": (
        group("float-quantized", type="float", num_bits=8, strategy="block"), GROUP + "weights.block_structure"
    ),
    "group size 0": (group(group_size=0), GROUP + "weights.group_size"),
    "weights scaled on the way": (group(dynamic=True), GROUP + "weights.dynamic"),
    "rotated weights": (group() | {"transform_config": {"config_groups": {"R1": {}}}}, SECTION + "transform_config"),
    "sparse weights": (group() | {"sparsity_config": {"format": "sparse-24-bitmask"}}, SECTION + "sparsity_config"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_config(name: str, tmp_path: Path) -> None:
    section, field = CONFIGS[name]
    with pytest.raises(LoadError) as caught:
        read_scheme(Config({"quantization_config": section}, tmp_path / "config.json"))
    assert caught.value.field == field
    assert "config.json" in str(caught.value)
    assert len(str(caught.value)) < 1000
    if isinstance(caught.value, UnsupportedError) and "in use" not in str(caught.value):
        assert any(word in str(caught.value) for word in ("supported", "quantises no", "no scales"))


def test_config_that_is_sound(tmp_path: Path) -> None:
    """Controls: what real files say besides."""
    for section in (
        GPTQ | {"damp_percent": 0.1, "true_sequential": True, "dataset": None, "tokenizer": None, "meta": {"q": [1]}},
        AWQ | {"modules_to_not_convert": None, "version": "GEMM"},
        {"quant_method": "awq", "w_bit": 4, "q_group_size": 64},
        {"quant_method": "fp8", "activation_scheme": "static", "modules_to_not_convert": ["lm_head"]},
        group() | {"transform_config": {}, "sparsity_config": {}, "version": "0.9.4", "global_compression_ratio": None},
        group() | {"sparsity_config": {"format": "dense"}},
        group() | {"format": "mixed-precision",
                   "config_groups": {"a": {"format": "pack-quantized", "weights": PACKED}}},
    ):  # fmt: skip
        scheme = read_scheme(Config({"quantization_config": section}, tmp_path / "config.json"))
        assert scheme is not None
        assert str(scheme).startswith(str(section["quant_method"]))
    assert read_scheme(Config({"quantization_config": {}}, tmp_path / "config.json")) is None
    assert read_scheme(Config({"quantization_config": None}, tmp_path / "config.json")) is None


# ---- tensors ----

Change = Callable[[Parts], None]


def without(part: str) -> Change:
    return lambda parts: parts.pop(part) and None


def typed(part: str, dtype: str, change: Callable[[Array], Array] = lambda a: a) -> Change:
    def apply(parts: Parts) -> None:
        parts[part] = change(parts[part][0]), dtype

    return apply


def shaped(part: str, change: Callable[[Array], Array]) -> Change:
    return lambda parts: parts.update({part: (np.ascontiguousarray(change(parts[part][0])), parts[part][1])})


def holding(part: str, value: Any, at: Any = (0,)) -> Change:
    def apply(parts: Parts) -> None:
        array = parts[part][0].copy()
        array[at] = value
        parts[part] = array, parts[part][1]

    return apply


def more(part: str, array: Array, dtype: str) -> Change:
    return lambda parts: parts.update({part: (array, dtype)})


def made(kind: str) -> tuple[dict[str, Any], Made]:
    rng = R(1)
    if kind.startswith("gptq"):
        return GPTQ | {"desc_act": True}, writers.gptq(draw(rng, N, K, 4, 16))
    if kind.startswith("awq"):
        return AWQ, writers.awq(draw(rng, N, K, 4, 16))
    if kind.startswith("packed"):
        return group(symmetric=False), writers.packed_ints(draw(rng, N, K, 4, 16), zeros=True, dtype="F16")
    if kind.startswith("int8"):
        section = compressed("int-quantized", strategy="channel", symmetric=False)
        return section, writers.plain_ints(draw(rng, N, K, 8, K), zeros=True, dtype="F32")
    if kind.startswith("fp8"):
        return FP8, writers.fp8(rng, N, K, (32, 32), "weight_scale_inv")
    return {"quant_method": "mxfp4"}, writers.mxfp4(rng, N, 2)


TENSORS: dict[str, tuple[Change, str]] = {
    "gptq no scales": (without("scales"), "scales"),
    "gptq no qzeros": (without("qzeros"), "qzeros"),
    "gptq no qweight": (without("qweight"), "quantization_config"),
    "gptq act-order without g_idx": (without("g_idx"), "g_idx"),
    "gptq codes of another type": (typed("qweight", "U32"), "qweight"),
    "gptq codes of floats": (typed("qweight", "F32"), "qweight"),
    "gptq flat codes": (shaped("qweight", lambda a: a.reshape(-1)), "qweight"),
    "gptq no codes": (shaped("qweight", lambda a: a[:0]), "qweight"),
    "gptq an odd width": (shaped("qweight", lambda a: a[:, :-1]), "qweight"),
    "gptq scales of half": (shaped("scales", lambda a: a[:2]), "scales"),
    "gptq scales turned": (shaped("scales", lambda a: a.T), "scales"),
    "gptq scales of codes": (typed("scales", "I16", lambda a: a.view(np.int16)), "scales"),
    "gptq zeros not packed": (shaped("qzeros", lambda a: np.repeat(a, 8, 1)), "qzeros"),
    "gptq g_idx short": (shaped("g_idx", lambda a: a[:-1]), "g_idx"),
    "gptq g_idx of int64": (typed("g_idx", "I64", lambda a: a.astype(np.int64)), "g_idx"),
    "gptq g_idx -1": (holding("g_idx", -1, 5), "g_idx"),
    "gptq g_idx one too high": (holding("g_idx", 4, 63), "g_idx"),
    "gptq g_idx 2^31-1": (holding("g_idx", 2**31 - 1, 0), "g_idx"),
    "gptq NaN scale": (holding("scales", math.nan, (2, 31)), "scales"),
    "gptq infinite scale": (holding("scales", math.inf, (0, 0)), "scales"),
    "gptq stored plainly too": (more("weight", np.zeros((N, K), np.float32), "F32"), "weight"),
    "awq no scales": (without("scales"), "scales"),
    "awq no qzeros": (without("qzeros"), "qzeros"),
    "awq 60 inputs": (shaped("qweight", lambda a: a[:60]), "qweight"),
    "awq qzeros of more groups": (shaped("qzeros", lambda a: np.repeat(a, 2, 0)), "qzeros"),
    "awq scales of three dimensions": (shaped("scales", lambda a: a[None]), "scales"),
    "awq NaN scale": (holding("scales", math.nan), "scales"),
    "packed no shape": (without("weight_shape"), "weight_shape"),
    "packed shape of three": (shaped("weight_shape", lambda a: np.array([N, K, 1])), "weight_shape"),
    "packed shape of other rows": (holding("weight_shape", 31, 0), "weight_shape"),
    "packed shape negative": (holding("weight_shape", -K, 1), "weight_shape"),
    "packed shape 2^63-1": (holding("weight_shape", 2**63 - 1, 1), "weight_shape"),
    "packed shape 0": (holding("weight_shape", 0, 1), "weight_shape"),
    "packed shape a bit less": (holding("weight_shape", 57, 1), "weight_scale"),
    "packed shape for 8 bits": (holding("weight_shape", 32, 1), "weight_shape"),
    "packed no scale": (without("weight_scale"), "weight_scale"),
    "packed scale of a row": (shaped("weight_scale", lambda a: a[:, :1]), "weight_scale"),
    "packed NaN scale": (holding("weight_scale", math.nan), "weight_scale"),
    "packed no zeros": (without("weight_zero_point"), "weight_zero_point"),
    "packed zeros of floats": (typed("weight_zero_point", "F32"), "weight_zero_point"),
    "packed zeros of fewer rows": (shaped("weight_zero_point", lambda a: a[:-1]), "weight_zero_point"),
    "packed g_idx uneven": (more("weight_g_idx", np.zeros(K, np.int32), "I32"), "weight_g_idx"),
    "packed g_idx partly absent": (more("weight_g_idx", np.r_[-1, np.arange(1, K) // 16].astype(np.int32), "I32"),
                                   "weight_g_idx"),
    "packed g_idx too high": (more("weight_g_idx", np.full(K, 9, np.int32), "I32"), "weight_g_idx"),
    "packed g_idx short": (more("weight_g_idx", np.zeros(3, np.int32), "I32"), "weight_g_idx"),
    "int8 of uint8": (typed("weight", "U8"), "weight"),
    "int8 no scale": (without("weight_scale"), "quantization_config"),
    "int8 scale for all": (shaped("weight_scale", lambda a: a[:1]), "weight_scale"),
    "int8 infinite scale": (holding("weight_scale", -math.inf), "weight_scale"),
    "int8 no zeros": (without("weight_zero_point"), "weight_zero_point"),
    "int8 zeros too many": (shaped("weight_zero_point", lambda a: np.repeat(a, 2, 1)), "weight_zero_point"),
    "int8 product too large": (holding("weight_scale", 3e38, slice(None)), "weight"),
    "fp8 no scale": (without("weight_scale_inv"), "quantization_config"),
    "fp8 no weight": (without("weight"), "weight"),
    "fp8 E5M2": (typed("weight", "F8_E5M2"), "weight"),
    "fp8 scale for rows": (shaped("weight_scale_inv", lambda a: np.zeros((N, 1), np.float32)), "weight_scale_inv"),
    "fp8 scale of int": (typed("weight_scale_inv", "I32"), "weight_scale_inv"),
    "fp8 NaN code": (holding("weight", 0x7F, (3, 9)), "weight"),
    "fp8 negative NaN code": (holding("weight", 0xFF, (31, 63)), "weight"),
    "fp8 NaN scale": (holding("weight_scale_inv", math.nan), "weight_scale_inv"),
    "fp8 product too large": (holding("weight_scale_inv", 3e38), "weight"),
    "fp8 two scales": (more("weight_scale", np.zeros((1, 2), np.float32), "F32"), "weight"),
    "mxfp4 no scales": (without("_scales"), "weight_scales"),
    "mxfp4 no blocks": (without("_blocks"), "quantization_config"),
    "mxfp4 blocks of 8": (shaped("_blocks", lambda a: a[:, :, :8]), "weight_blocks"),
    "mxfp4 flat blocks": (shaped("_blocks", lambda a: a.reshape(-1, 16)), "weight_blocks"),
    "mxfp4 scales of fewer": (shaped("_scales", lambda a: a[:, :1]), "weight_scales"),
    "mxfp4 scale 255": (holding("_scales", 255, (31, 1)), "weight_scales"),
    "mxfp4 too large": (typed("_scales", "U8", lambda a: np.full_like(a, 254)), "weight_blocks"),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(name: str, tmp_path: Path) -> None:
    section, (parts, values) = made(name)
    change, field = TENSORS[name]
    control = tmp_path / "control"
    control.mkdir()
    with opened(control, section, (dict(parts), values)) as weights:
        assert np.array_equal(weights.array("m.weight"), values)
    change(parts)
    start = time.process_time()
    with pytest.raises(LoadError) as caught:
        opened(tmp_path, section, (parts, values)).array("m.weight")
    assert time.process_time() - start < 1
    wanted = full(field) if field.startswith("_") else field if field == "quantization_config" else f"m.{field}"
    assert caught.value.field == wanted
    assert str(tmp_path / "model.safetensors") in str(caught.value)


def test_several_groups(tmp_path: Path) -> None:
    """Each module is read as the group that fits what is stored; if none does, the first says why not."""
    section = group()
    section["config_groups"]["group_1"] = {"weights": {"num_bits": 8, "strategy": "channel"}}
    for bits, size in ((4, 16), (8, K)):
        parts = writers.packed_ints(draw(R(2), N, K, bits, size))
        assert np.array_equal(opened(tmp_path, section, parts).array("m.weight"), parts[1])
    with pytest.raises(LoadError, match=r"m\.weight_scale: has the shape \[32, 8\], expected \[32, 4\]"):
        opened(tmp_path, section, writers.packed_ints(draw(R(2), N, K, 4, 8)))


# ---- whole models ----


def quantised(tmp_path: Path, factory: pytest.TempPathFactory, model: str = "llama", **changes: Any) -> Path:
    rng = R(6)

    def writer(module: str, n: int, k: int) -> Made | None:
        return writers.gptq(draw(rng, n, k, 4, 16)) if "q_proj" in module else None

    return writers.pair(folder(factory, model), tmp_path, GPTQ | changes, writer)[0]


def test_info_says_the_format(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = describe(quantised(tmp_path, tmp_path_factory))
    assert found["stored"] == "gptq, 4 bits, groups of 16"
    assert set(found["formats"]) == {"float32"}


def test_a_config_of_other_groups(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = quantised(tmp_path, tmp_path_factory, group_size=32)
    with pytest.raises(LoadError, match=r"q_proj\.scales: has the shape \[4, 64\], expected \[2, 64\]"):
        Model.load(path)


def test_biases_of_old_writers(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A bias that the model has no place for is passed over if it is zero, and refused if not."""
    path = quantised(tmp_path, tmp_path_factory)
    with writers.open_weights(path) as weights:
        held = {name: (weights.array(name).copy(), weights.info(name).dtype) for name in weights}
    bias = "model.layers.1.self_attn.q_proj.bias"
    writers.write(path / "model.safetensors", held | {bias: (np.zeros(64, np.float16), "F16")})
    Model.load(path, threads=1).close()
    writers.write(path / "model.safetensors", held | {bias: (np.ones(64, np.float16), "F16")})
    with pytest.raises(LoadError, match="no place"):
        Model.load(path, threads=1)


def test_mixed_with_bfloat16(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """k and v beside a quantised q, which are packed into one matrix: nothing of any is lost."""
    path = quantised(tmp_path, tmp_path_factory)
    with writers.open_weights(path) as weights:
        held = {name: (weights.array(name).copy(), weights.info(name).dtype) for name in weights}
    for name, (array, dtype) in held.items():
        if dtype == "F32":
            held[name] = (array.view(np.uint32) >> 16).astype(np.uint16), "BF16"
    writers.write(path / "model.safetensors", held)
    model = Model.load(path, threads=1)
    assert set(model.formats) == {"float32", "bfloat16"}
    qkv = 3 * 128 * 64 * 4
    assert model.formats["float32"] == qkv
    assert json.loads((path / "config.json").read_text())["quantization_config"]["bits"] == 4
