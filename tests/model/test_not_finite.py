"""Files whose scales are infinite or not numbers: a LoadError that names the file and the tensor, for every type."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from gguf_pairs import pair

from lanewise.errors import LoadError
from lanewise.model.model import Model
from lanewise.model.source import open_source

WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2}
NAN, INFINITE, MINUS_INFINITE = b"\x01\x7e", b"\x00\x7c", b"\x00\xfc"
# type -> bytes of a block, and where its float16 scales and minima lie
HALVES = {
    "Q4_0": (18, (0,)), "Q4_1": (20, (0, 2)), "Q5_0": (22, (0,)), "Q5_1": (24, (0, 2)), "Q8_0": (34, (0,)),
    "Q2_K": (84, (80, 82)), "Q3_K": (110, (108,)), "Q4_K": (144, (0, 2)), "Q5_K": (176, (0, 2)), "Q6_K": (210, (208,)),
    "IQ4_NL": (18, (0,)), "IQ4_XS": (136, (0,)), "IQ2_XXS": (66, (0,)), "IQ2_XS": (74, (0,)), "IQ2_S": (82, (0,)),
    "IQ3_XXS": (98, (0,)), "IQ3_S": (110, (0,)), "IQ1_S": (50, (0,)), "TQ1_0": (54, (52,)), "TQ2_0": (66, (64,)),
}  # fmt: skip
TENSORS = ("token_embd", "blk.0.attn_q", "blk.1.attn_v", "blk.0.ffn_gate", "blk.1.ffn_up", "blk.1.ffn_down", "output")


def spoiled(file: Path, tensor: str, at: int, content: bytes) -> None:
    """`content` at byte `at` of a tensor, counted from its end if negative."""
    with open_source(file) as source:
        info = source.weights.info(tensor)
        start, size = info.start, info.nbytes
    data = bytearray(file.read_bytes())
    at = start + at % size
    data[at : at + len(content)] = content
    file.write_bytes(data)


def refused(file: Path, tensor: str, dtype: str = "auto") -> None:
    start = time.process_time()
    with pytest.raises(LoadError) as caught:
        Model.load(file, dtype=dtype).close()
    assert (caught.value.file, caught.value.field) == (str(file), tensor)
    assert "infinite or not a number" in str(caught.value)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("kind", HALVES)
def test_half_scales(kind: str, tmp_path: Path) -> None:
    size, places = HALVES[kind]
    _, file = pair(tmp_path, "llama", kind, **WIDE)
    sound = file.read_bytes()
    Model.load(file).close()
    for place in places:
        for i, tensor in enumerate(TENSORS):
            last = i % 2 * -size  # the first block of the tensor, or its last
            spoiled(file, f"{tensor}.weight", place + last, (NAN, INFINITE, MINUS_INFINITE)[i % 3])
            refused(file, f"{tensor}.weight")
            file.write_bytes(sound)


def test_split_scales_of_iq1_m(tmp_path: Path) -> None:
    """The nibbles of its float16 are the high ones of four words."""
    _, file = pair(tmp_path, "llama", "IQ1_M", **WIDE)
    spoiled(file, "blk.1.attn_output.weight", 53, b"\xe0")
    spoiled(file, "blk.1.attn_output.weight", 55, b"\x70")
    refused(file, "blk.1.attn_output.weight")


def test_exponent_that_is_no_number(tmp_path: Path) -> None:
    """E8M0 has one NaN (OCP MX), which llama.cpp refuses as well."""
    _, file = pair(tmp_path, "qwen2", "MXFP4", **WIDE)
    sound = file.read_bytes()
    for exponent, allowed in ((b"\xfe", True), (b"\xff", False)):
        file.write_bytes(sound)
        spoiled(file, "blk.0.attn_k.weight", -17, exponent)
        if allowed:
            Model.load(file).close()
        else:
            refused(file, "blk.0.attn_k.weight")


def test_largest_scale_is_a_number(tmp_path: Path) -> None:
    _, file = pair(tmp_path, "llama", "Q4_0", **WIDE)
    spoiled(file, "blk.0.attn_k.weight", 0, b"\xff\x7b")
    spoiled(file, "blk.0.attn_k.weight", 18, b"\xff\xfb")
    Model.load(file).close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_expanded_weights(dtype: str, tmp_path: Path) -> None:
    _, file = pair(tmp_path, "llama", "Q4_K", **WIDE)
    spoiled(file, "blk.1.ffn_up.weight", -144, NAN)
    refused(file, "blk.1.ffn_up.weight", dtype)


def test_vectors(tmp_path: Path) -> None:
    _, file = pair(tmp_path, "llama", "Q8_0", **WIDE)
    spoiled(file, "blk.1.ffn_norm.weight", -4, np.float32(np.inf).tobytes())
    refused(file, "blk.1.ffn_norm.weight")
