"""Loading never holds a model twice: the peak of a bf16 model is at most 1.15 weights, its cache and a constant."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantised_writers import write

from lanewise.model import read_model

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}

# What does not grow with the model: one matrix's pages of the file while it is packed (the embedding is the largest,
# 64 MiB here, released when it is done), scratch of a step, the interpreter's own growth.
CONSTANT = 48 << 20
SHAPE = {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072, "vocab_size": 8192, "head_dim": 64,
         "num_attention_heads": 12, "num_key_value_heads": 4}  # fmt: skip

SCRIPT = """
import json, sys
import numpy as np
from lanewise import _native
from lanewise.model.model import Model

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def step(model, n, pages):
    model.reserve_pages(pages)
    table = np.arange(pages, dtype=np.int32)[None]
    one = np.array([n - 1], np.int32)
    return model.run(np.full(n, 5, np.int32), np.array([0, n], np.int32), np.zeros(1, np.int32), table, one)

# A tiny model first: the baseline has every module and thread, but no weights.
step(Model.load(sys.argv[1], threads=1), 64, 1)
before = peak()
model = Model.load(sys.argv[2], threads=1)
loaded = peak()
logits = step(model, 256, 4)
assert np.isfinite(logits).all()
print(json.dumps({"before": before, "loaded": loaded, "peak": peak(), "weights": model.weight_bytes,
                  "cache": 4 * model.page_bytes, "formats": model.formats}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs VmHWM of /proc")
def test_peak_of_loading(tmp_path: Path) -> None:
    bench = Path(__file__).resolve().parents[2] / "bench"
    sys.path.append(str(bench))
    try:
        from make_model import SHAPES, write_model
    finally:
        sys.path.remove(str(bench))
    tiny = write_model(tmp_path / "tiny", SHAPES["tiny"])
    large = write_model(tmp_path / "large", {**SHAPES["tiny"], **SHAPE})
    arguments = [sys.executable, "-c", SCRIPT, str(tiny), str(large)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    (large / "model.safetensors").unlink()
    assert set(found["formats"]) == {"bfloat16"}
    assert found["weights"] > 180 << 20
    allowed = 1.15 * found["weights"] + found["cache"] + CONSTANT
    assert found["peak"] - found["before"] <= allowed, found


LOAD = """
import json, sys
from lanewise.model.model import Model

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

Model.load(sys.argv[1], threads=1)
before = peak()
model = Model.load(sys.argv[2], threads=1)
print(json.dumps({"added": peak() - before, "weights": model.weight_bytes, "formats": model.formats}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs VmHWM of /proc")
def test_peak_of_loading_quantised(tmp_path: Path) -> None:
    """Beside the packed weights, the blocks of one matrix at a time."""
    large, tiny = tmp_path / "large", tmp_path / "tiny"
    for folder, layers, hidden, width in ((large, 5, 1024, 3072), (tiny, 1, 64, 64)):
        folder.mkdir()
        config = {"model_type": "llama", "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": width,
                  "num_attention_heads": hidden // 64, "max_position_embeddings": 64, "vocab_size": 512,
                  "tie_word_embeddings": True, "quantization_config": GPTQ}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        write(folder / "model.safetensors", dict(_gptq_tensors(folder)))
    arguments = [sys.executable, "-c", LOAD, str(tiny), str(large)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    (large / "model.safetensors").unlink()
    assert set(found["formats"]) == {"q4_0", "float32"}
    assert found["weights"] > 36 << 20
    assert found["added"] <= 1.02 * found["weights"] + CONSTANT, found


def _gptq_tensors(folder: Path) -> Iterator[tuple[str, tuple[Any, str]]]:
    spec, _, _ = read_model(folder)
    for tensor in spec.tensors():
        if len(tensor.shape) == 1 or "embed" in tensor.name:
            yield tensor.name, (np.ones(tensor.shape, np.float32), "F32")
            continue
        (n, k), name = tensor.shape, tensor.name.removesuffix(".weight")
        yield f"{name}.qweight", (np.full((k // 8, n), 0x12345678, np.int32), "I32")
        yield f"{name}.qzeros", (np.full((k // 32, n // 8), 0x77777777, np.int32), "I32")
        yield f"{name}.scales", (np.full((k // 32, n), 0.01, np.float16), "F16")
