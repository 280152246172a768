"""Quantised safetensors checkpoints: each format against its definition, logits bit for bit those of the values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantised_writers as writers
from hypothesis import given
from hypothesis import strategies as st
from quantised_writers import Array, Parts, draw
from tiny import Player, folder, same_bits, some_ids

from lanewise.model.config import Config
from lanewise.model.model import Model, describe
from lanewise.model.quantised import QuantisedWeights, read_scheme
from lanewise.model.quantised.codes import e8m0
from lanewise.model.quantised.stored import StoredInt
from lanewise.model.safetensors import open_weights

Made = tuple[Parts, Array]
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"}


def compressed(format: str, **weights: Any) -> dict[str, Any]:
    """A section as llm-compressor writes it."""
    group = {"targets": ["Linear"], "input_activations": None, "output_activations": None,
             "weights": {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False} | weights}  # fmt: skip
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group},
            "ignore": ["lm_head"], "quantization_status": "compressed", "kv_cache_scheme": None}  # fmt: skip


def shuffled(k: int, group: int) -> Array:
    return np.random.default_rng(k).permutation(np.arange(k) // group)


R = np.random.default_rng
FORMATS: dict[str, tuple[dict[str, Any], Callable[[np.random.Generator, int, int], Made]]] = {
    "gptq": (GPTQ, lambda r, n, k: writers.gptq(draw(r, n, k, 4, 16))),
    "gptq one group": (GPTQ | {"group_size": -1}, lambda r, n, k: writers.gptq(draw(r, n, k, 4, k))),
    "gptq ragged": (GPTQ | {"group_size": 48}, lambda r, n, k: writers.gptq(draw(r, n, k, 4, 48))),
    "gptq v2": (
        GPTQ | {"checkpoint_format": "gptq_v2"}, lambda r, n, k: writers.gptq(draw(r, n, k, 4, 16), first=False)
    ),
    "gptq act-order": (
        GPTQ | {"desc_act": True}, lambda r, n, k: writers.gptq(draw(r, n, k, 4, 16), g_idx=shuffled(k, 16))
    ),
    "gptq 2 bits": (GPTQ | {"bits": 2}, lambda r, n, k: writers.gptq(draw(r, n, k, 2, 16))),
    "gptq 8 bits": (GPTQ | {"bits": 8}, lambda r, n, k: writers.gptq(draw(r, n, k, 8, 16), dtype="BF16")),
    "awq": (AWQ, lambda r, n, k: writers.awq(draw(r, n, k, 4, 16))),
    "awq symmetric": (AWQ | {"zero_point": False}, lambda r, n, k: writers.awq(draw(r, n, k, 4, 16), zeros=False)),
    "packed int4": (
        compressed("pack-quantized", num_bits=4, strategy="group", group_size=16),
        lambda r, n, k: writers.packed_ints(draw(r, n, k, 4, 16)),
    ),
    "packed int4 zeros": (
        compressed("pack-quantized", num_bits=4, strategy="group", group_size=16, symmetric=False),
        lambda r, n, k: writers.packed_ints(draw(r, n, k, 4, 16), zeros=True),
    ),
    "packed int4 plain zeros": (
        compressed("pack-quantized", num_bits=4, strategy="group", group_size=16, symmetric=False),
        lambda r, n, k: writers.packed_ints(draw(r, n, k, 4, 16), zeros=True, plain_zeros=True),
    ),
    "packed int4 act-order": (
        compressed("pack-quantized", num_bits=4, strategy="group", group_size=16, actorder="group"),
        lambda r, n, k: writers.packed_ints(draw(r, n, k, 4, 16), g_idx=shuffled(k, 16)),
    ),
    "packed int8 rows": (
        compressed("pack-quantized", strategy="channel"), lambda r, n, k: writers.packed_ints(draw(r, n, k, 8, k))
    ),
    "packed int8 zeros": (
        compressed("pack-quantized", strategy="group", group_size=8, symmetric=False),
        lambda r, n, k: writers.packed_ints(draw(r, n, k, 8, 8), zeros=True, dtype="F32"),
    ),
    "int8 rows": (
        compressed("int-quantized", strategy="channel"), lambda r, n, k: writers.plain_ints(draw(r, n, k, 8, k))
    ),
    "int8 rows zeros": (
        compressed("int-quantized", strategy="channel", symmetric=False),
        lambda r, n, k: writers.plain_ints(draw(r, n, k, 8, k), zeros=True),
    ),
    "int8 tensor": (
        compressed("int-quantized", strategy="tensor"),
        lambda r, n, k: writers.plain_ints(draw(r, n, k, 8, k), whole=True, dtype="F32"),
    ),
    "compressed fp8 tensor": (
        compressed("float-quantized", type="float", strategy="tensor"),
        lambda r, n, k: writers.fp8(r, n, k, (n, k), "weight_scale", shape=(1,)),
    ),
    "compressed fp8 rows": (
        compressed("float-quantized", type="float", strategy="channel"),
        lambda r, n, k: writers.fp8(r, n, k, (1, k), "weight_scale", dtype="BF16"),
    ),
    "compressed fp8 blocks": (
        compressed("float-quantized", type="float", strategy="block", block_structure=[32, 48]),
        lambda r, n, k: writers.fp8(r, n, k, (32, 48), "weight_scale"),
    ),
    "fp8 blocks": (
        {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [32, 32]},
        lambda r, n, k: writers.fp8(r, n, k, (32, 32), "weight_scale_inv", dtype="BF16"),
    ),
    "fp8 blocks of 128, powers of two": (
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        lambda r, n, k: writers.fp8(r, n, k, (128, 128), "weight_scale_inv", dtype="F8_E8M0"),
    ),
    "fp8 tensor": (
        {"quant_method": "fp8", "activation_scheme": "static"},
        lambda r, n, k: writers.fp8(r, n, k, (n, k), "weight_scale", shape=()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_those_of_the_values(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    section, writer = FORMATS[name]
    rng = R(len(name))
    model = "qwen2-window" if name.startswith("awq") else "llama"
    source = folder(tmp_path_factory, model)
    held, plain = writers.pair(source, tmp_path, section, lambda m, n, k: None if m == "lm_head" else writer(rng, n, k))
    ids = some_ids(40, 300)
    found = Player(Model.load(held, threads=1, dtype="float32")).feed(ids)
    wanted = Player(Model.load(plain, threads=1)).feed(ids)
    assert np.isfinite(wanted).all()
    assert np.ptp(wanted) > 1
    assert same_bits(found, wanted)
    said = describe(held)["stored"]
    assert section["quant_method"] in said


def full(part: str) -> str:
    return f"m.weight{part}" if part.startswith("_") else f"m.{part}"


def opened(path: Path, section: dict[str, Any], made: Made) -> QuantisedWeights:
    """One quantised matrix "m.weight" in a file."""
    writers.write(path / "model.safetensors", {full(part): value for part, value in made[0].items()})
    scheme = read_scheme(Config({"quantization_config": section}, path / "config.json"))
    assert scheme is not None
    return QuantisedWeights(open_weights(path), scheme, ())


def check(path: Path, section: dict[str, Any], made: Made) -> QuantisedWeights:
    weights = opened(path, section, made)
    info = weights.info("m.weight")
    assert (list(weights), info.shape) == (["m.weight"], made[1].shape)
    assert info.nbytes == sum(array.nbytes for array, _ in made[0].values())
    assert info.dtype == "F32" or "fp8" in str(section) or "float" in str(section)
    assert same_bits(as_float32(weights), made[1])
    return weights


def as_float32(weights: QuantisedWeights) -> Array:
    """The matrix; values that are all bfloat16 come as such."""
    values = weights.array("m.weight")
    if weights.info("m.weight").dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values


@given(
    st.sampled_from([2, 3, 4, 8]), st.integers(1, 3), st.integers(1, 3), st.integers(1, 70), st.booleans(),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_gptq_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, bits: int, n: int, k: int, group: int, shuffle: bool, seed: int
) -> None:
    n, k = 32 * n, 32 * k
    drawn = draw(R(seed), n, k, bits, min(group, k))
    order = R(seed).integers(0, drawn.scales.shape[1], k) if shuffle else None
    made = writers.gptq(drawn, first=seed % 2 == 0, g_idx=order)
    section = GPTQ | {"bits": bits, "group_size": min(group, k), "desc_act": shuffle}
    section |= {} if seed % 2 == 0 else {"checkpoint_format": "gptq_v2"}
    check(tmp_path_factory.mktemp("one"), section, made)


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3, 8, 32]), st.booleans(), st.integers(0, 2**32 - 1))
def test_awq_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, n: int, groups: int, group: int, zeros: bool, seed: int
) -> None:
    made = writers.awq(draw(R(seed), 8 * n, groups * group, 4, group), zeros=zeros)
    check(tmp_path_factory.mktemp("one"), AWQ | {"group_size": group, "zero_point": zeros}, made)


@given(
    st.sampled_from([4, 8]), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.booleans(),
    st.sampled_from(["F16", "BF16", "F32"]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_packed_integers_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, bits: int, n: int, groups: int, group: int, zeros: bool, shuffle: bool,
    dtype: str, seed: int,
) -> None:  # fmt: skip
    k = groups * group
    order = shuffled(k, group) if shuffle else None
    made = writers.packed_ints(draw(R(seed), n, k, bits, group), zeros=zeros, dtype=dtype, g_idx=order)
    section = compressed("pack-quantized", num_bits=bits, strategy="group", group_size=group, symmetric=not zeros)
    weights = check(tmp_path_factory.mktemp("one"), section, made)
    stored = weights.stored("m.weight")
    assert isinstance(stored, StoredInt)
    grouped = stored.grouped(0, n)
    assert (grouped.codes.dtype, grouped.codes.shape, grouped.scales.shape) == (np.uint8, (n, k), (n, groups))


@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 80), st.integers(1, 80),
    st.sampled_from(["F16", "BF16", "F32", "F8_E8M0"]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_fp8_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, n: int, k: int, high: int, wide: int, dtype: str, seed: int
) -> None:
    made = writers.fp8(R(seed), n, k, (high, wide), "weight_scale_inv", dtype=dtype)
    section = {"quant_method": "fp8", "weight_block_size": [high, wide]}
    check(tmp_path_factory.mktemp("one"), section, made)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_mxfp4_of_any_size(tmp_path_factory: pytest.TempPathFactory, n: int, blocks: int, seed: int) -> None:
    made = writers.mxfp4(R(seed), n, blocks)
    check(tmp_path_factory.mktemp("one"), {"quant_method": "mxfp4"}, made)


def test_mxfp4_of_experts(tmp_path: Path) -> None:
    parts, values = writers.mxfp4(R(1), 12, 2)
    parts = {name: (array.reshape(3, 4, *array.shape[1:]), dtype) for name, (array, dtype) in parts.items()}
    check(tmp_path, {"quant_method": "mxfp4"}, (parts, values.reshape(3, 4, 64)))


# ---- beside the programs that define the formats ----


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name][0]["quant_method"] == "compressed-tensors"
                                  and "act-order" not in name and "plain zeros" not in name])  # fmt: skip
def test_as_compressed_tensors_decompresses(name: str, tmp_path: Path) -> None:
    """The package computes in the type of the scales: float32 here."""
    pytest.importorskip("compressed_tensors")
    torch = pytest.importorskip("torch")
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    section, writer = FORMATS[name]
    parts, values = writer(R(3), 64, 96)
    state = {}
    for part, (array, dtype) in parts.items():
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if dtype in ("BF16", "F8_E4M3"):
            tensor = tensor.view({"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}[dtype])
        state[part] = tensor.float() if part == "weight_scale" else tensor
    scheme = QuantizationScheme(**section["config_groups"]["group_0"])
    found = BaseCompressor.get_value_from_registry(section["format"]).decompress(state, scheme)["weight"]
    assert same_bits(found.numpy(), values)
    check(tmp_path, section, (parts, values))


def test_as_transformers_dequantises_fp8() -> None:
    torch = pytest.importorskip("torch")
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    parts, values = writers.fp8(R(4), 64, 96, (32, 32), "weight_scale_inv")
    codes = torch.from_numpy(parts["weight"][0]).view(torch.float8_e4m3fn)
    scales = torch.from_numpy(parts["weight_scale_inv"][0])
    found = fp8.Fp8Dequantize(None)._dequantize_one(codes, scales, torch.float32)
    assert same_bits(found.numpy(), values)


@pytest.mark.filterwarnings("error")
def test_every_code_of_e8m0() -> None:
    """OCP MX: 2^(x - 127), and one NaN; no code makes numpy warn."""
    values = e8m0(np.arange(256, dtype=np.uint8))
    assert values.dtype == np.float32
    assert np.isnan(values[255])
    assert [float(v) for v in values[:255]] == [2.0 ** (x - 127) for x in range(255)]


def test_as_transformers_expands_mxfp4() -> None:
    torch = pytest.importorskip("torch")
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    parts, values = writers.mxfp4(R(5), 12, 2)
    blocks = torch.from_numpy(parts["_blocks"][0].reshape(3, 4, 2, 16))
    scales = torch.from_numpy(parts["_scales"][0].reshape(3, 4, 2))
    found = mxfp4.convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    assert same_bits(np.ascontiguousarray(found.transpose(1, 2).numpy()), values.reshape(3, 4, 64))
