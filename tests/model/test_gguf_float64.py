"""Quantised GGUF models against a float64 evaluation of their dequantised weights.

Expanded (`dtype="float32"`) they are within the bound of float32 models. In their own classes activations are rounded
to 8 bits, and the logits are within what that costs. The float64 evaluation that rounds activations as
docs/numerics.md says is met much closer, to float32's own errors, as long as those put no activation on the other side
of a rounding: after a few tokens most sequences are still there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_float64 import Float64Model
from gguf_pairs import pair
from test_gguf_quant import FILES, SHARED_FILES, WIDE, logits, nmse
from tiny import Player, some_ids

from lanewise.model.convert import quantize_model
from lanewise.model.model import Model
from shared import needs_shared, shared

gguf = pytest.importorskip("gguf")
MORE = {"MXFP4": {"": "MXFP4", "head": "Q8_0"}}
WRITTEN = {name: kinds for name, kinds in (FILES | MORE).items() if not name.startswith("F16")}
CLEAN = 1e-12  # normalised mean square error of a row whose activations were all rounded alike: 1e-15 to 1e-13


def clean_ends(path: Path, model: Float64Model) -> float:
    """The part of ten sequences of twelve tokens whose last logits differ by float32's own errors alone."""
    opened, clean = Model.load(path), 0
    for seed in range(10):
        ids = some_ids(12, opened.vocabulary, seed)
        clean += nmse(Player(opened).feed(ids)[-1], model.logits(ids, rounded=True)[-1]) < CLEAN
    opened.close()
    return clean / 10


def check(path: Path, ids: Any, loss: float) -> None:
    """loss: bound of the normalised mean square error that 8-bit activations may cause in the logits."""
    model = Float64Model(path)
    wanted = model.logits(ids)
    assert nmse(logits(path, ids, dtype="float32"), wanted) < 1e-9
    assert 0 < nmse(logits(path, ids), wanted) < loss
    assert clean_ends(path, model) >= 0.5  # found: 0.6 to 1


@pytest.mark.parametrize("name", WRITTEN)
def test_every_type(name: str, tmp_path: Path) -> None:
    """About 5e-5 for each of the 15 products of two layers, and what attention makes of that."""
    check(pair(tmp_path, "llama", WRITTEN[name], **WIDE)[1], some_ids(40, 100), 2e-3)


@pytest.mark.parametrize(
    ("arch", "name"), [("qwen2", "Q4_0"), ("qwen2", "Q4_K_M"), ("qwen3", "Q8_0"), ("qwen3", "IQ4")]
)
def test_other_architectures(arch: str, name: str, tmp_path: Path) -> None:
    """Biases, a tied head (which has the embedding's type), norms of q and k, the other pairing of the rope."""
    kinds = {"head": WRITTEN[name][""]} | WRITTEN[name]
    check(pair(tmp_path, arch, kinds, **WIDE, head_dim=64)[1], some_ids(40, 100), 2e-3)


@needs_shared
@pytest.mark.parametrize(("name", "kind"), SHARED_FILES)
def test_shared_files(name: str, kind: str) -> None:
    """Real weights in blocks of llama.cpp: 1.4e-5 to 3.2e-5."""
    check(shared("models", name, f"{name}-{kind}.gguf"), some_ids(120, 105), 1e-4)


@needs_shared
@pytest.mark.parametrize("type", ["q4", "q4m", "q8", "Q5_0", "MXFP4"])
def test_real_weights_in_our_blocks(type: str, tmp_path: Path) -> None:
    """q4m of this width has Q4_1, and Q8_0 where Q6_K would be."""
    quantize_model(shared("models", "babyllama-105"), tmp_path / "q.gguf", type=type)
    check(tmp_path / "q.gguf", some_ids(120, 105), 1e-4)


# ---- the test itself ----


def damaged(path: Path, target: Path, tensor: str, how: str) -> Path:
    """A copy of the file with one wrong block in `tensor`: its first scale doubled, or the next block's place taken."""
    shutil.copy(path, target)
    found = next(t for t in gguf.GGUFReader(path).tensors if t.name == tensor)
    size = gguf.GGML_QUANT_SIZES[found.tensor_type][1]
    data = np.memmap(target, np.uint8, "r+", found.data_offset, (found.n_bytes // size, size))
    if how == "swapped":
        data[[5, 6]] = data[[6, 5]]
    else:  # one more in the exponent of the float16
        at = 208 if found.tensor_type.name == "Q6_K" else 0
        scale = np.array(data[5, at : at + 2]).view(np.float16)
        data[5, at : at + 2] = (scale * np.float16(2)).view(np.uint8)
    data.flush()
    return target


@pytest.mark.parametrize("how", ["scale", "swapped"])
@pytest.mark.parametrize("tensor", ["blk.0.attn_q", "blk.0.attn_v", "blk.1.ffn_down", "output"])
@pytest.mark.parametrize("name", ["Q4_0", "Q4_K_M"])
def test_one_wrong_block_is_seen(name: str, tensor: str, how: str, tmp_path: Path) -> None:
    file, ids = pair(tmp_path, "llama", WRITTEN[name], **WIDE)[1], some_ids(40, 100)
    model, bad = Float64Model(file), damaged(file, tmp_path / "bad.gguf", tensor + ".weight", how)
    assert nmse(logits(bad, ids, dtype="float32"), model.logits(ids)) > 1e-9
    assert clean_ends(bad, model) == 0
