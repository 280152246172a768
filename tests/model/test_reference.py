"""Whole models against transformers: float32 to its rounding errors, bf16 against float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import MODELS, POSITIONS, Player, folder, reference, reference_logits, some_ids, torch_here

from lanewise.model.model import Model
from shared import needs_shared, shared

TRAINED = ["stories260K", "babyllama-105"]
GREEDY = 64


def nmse(found: Any, wanted: Any) -> float:
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    return float(((found - wanted) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum())


def check_float32(path: Path, ids: Any) -> None:
    """NMSE, and the same argmax wherever the two best are not too close."""
    found = Player(Model.load(path, dtype="float32", context=len(ids), threads=1)).feed(ids)
    wanted = reference_logits(reference(path, "float32"), ids)
    assert len(ids) >= 200
    assert np.isfinite(found).all()
    assert nmse(found, wanted) <= 1e-9
    best = np.sort(wanted, axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > 1e-3
    assert clear.sum() >= 0.9 * len(ids), "the model decides too little to be a test"
    assert (found.argmax(1) == wanted.argmax(1))[clear].all()


def check_greedy(path: Path, prompt: Any) -> None:
    torch = torch_here()
    from transformers import GenerationConfig

    how = GenerationConfig(do_sample=False, max_new_tokens=GREEDY, pad_token_id=0)
    model = reference(path, "float32")
    model.generation_config = how
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    wanted = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)[0, len(prompt) :].tolist()
    assert len(wanted) == GREEDY
    assert Player(Model.load(path, dtype="float32", threads=1)).greedy(prompt, GREEDY) == wanted


@pytest.mark.parametrize("name", MODELS)
def test_tiny_float32(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_float32(folder(tmp_path_factory, name), some_ids(POSITIONS, 300))


@pytest.mark.parametrize("name", MODELS)
def test_tiny_greedy(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    check_greedy(folder(tmp_path_factory, name), some_ids(23, 300, seed=1))


@pytest.mark.parametrize("name", ["llama", "llama-bias", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("numerics", ["fast", "exact"])
def test_tiny_bfloat16(name: str, numerics: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Against float64 on the same bf16 weights: no worse than transformers in bf16."""
    path, ids = folder(tmp_path_factory, name, "bfloat16"), some_ids(POSITIONS, 300, seed=2)
    truth = reference_logits(reference(path, "float64"), ids)
    model = Model.load(path, numerics=numerics, threads=1)
    assert set(model.formats) == {"bfloat16"}
    assert model.kv_dtype == "bfloat16"
    ours = nmse(Player(model).feed(ids), truth)
    theirs = nmse(reference_logits(reference(path, "bfloat16"), ids), truth)
    assert ours <= theirs


def test_tiny_float16(tmp_path_factory: pytest.TempPathFactory) -> None:
    """float16 weights are held exactly."""
    path, ids = folder(tmp_path_factory, "llama", "float16"), some_ids(POSITIONS, 300)
    truth = reference_logits(reference(path, "float64"), ids)
    assert nmse(Player(Model.load(path, threads=1)).feed(ids), truth) <= 1e-9


# ---- the trained models ----


def text_ids(name: str, n: int) -> Any:
    """The first n ids of some stories, as the model's tokenizer gives them."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(shared("models", name, "tokenizer.json")))
    lines = shared("text", "tinystories_sample.jsonl").read_text().splitlines()[:40]
    text = "\n".join(json.loads(line)["text"] for line in lines)
    return np.array(tokenizer.encode(text).ids[:n], np.int32)


def perplexity(logits: Any, ids: Any) -> float:
    x = logits[:-1].astype(np.float64)
    top = x.max(1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(x - top).sum(1))
    return float(np.exp((log_sum - x[np.arange(len(x)), ids[1:]]).mean()))


@needs_shared
@pytest.mark.parametrize("name", TRAINED)
def test_trained_float32(name: str) -> None:
    check_float32(shared("models", name), text_ids(name, 250))


@needs_shared
@pytest.mark.parametrize("name", TRAINED)
def test_trained_greedy(name: str) -> None:
    check_greedy(shared("models", name), text_ids(name, 12))


@needs_shared
@pytest.mark.parametrize("name", TRAINED)
def test_trained_perplexity(name: str) -> None:
    path = shared("models", name)
    model = Model.load(path, threads=1)
    length = model.context
    ids = text_ids(name, 4 * length).reshape(-1, length)
    player, theirs = Player(model), reference(path, "float32")
    ours = [perplexity(player.feed(piece), piece) for piece in ids]
    wanted = [perplexity(reference_logits(theirs, piece), piece) for piece in ids]
    for a, b in [*zip(ours, wanted, strict=True), (np.mean(ours), np.mean(wanted))]:
        assert abs(a - b) <= 1e-5 * b
    assert np.mean(ours) < {"stories260K": 12.0, "babyllama-105": 4.0}[name]
