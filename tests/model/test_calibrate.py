"""The inputs' squares against those that transformers' modules see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_pairs import pair
from tiny import MODELS, folder, reference, reference_logits, some_ids

from lanewise.model.calibrate import collect
from lanewise.model.gguf_export import tensors
from lanewise.model.source import open_source

_FORMS = ("llama", "llama-bias", "llama-yarn", "llama-one-kv-head", "mistral", "qwen2", "qwen2-window", "qwen3")


def hooked(model: Any, chunks: list[Any]) -> dict[str, Any]:
    """name of a module's weight -> sums of squares of what the module is given."""
    sums: dict[str, Any] = {}

    def hook(name: str) -> Any:
        def see(_: Any, given: Any) -> None:
            x = given[0].double().reshape(-1, given[0].shape[-1])
            sums[name] = sums.get(name, 0) + (x * x).sum(0).numpy()

        return see

    kept = [
        module.register_forward_pre_hook(hook(f"{name}.weight"))
        for name, module in model.named_modules()
        if type(module).__name__ == "Linear"
    ]
    for ids in chunks:
        reference_logits(model, ids)
    for handle in kept:
        handle.remove()
    return sums


@pytest.mark.parametrize("name", _FORMS)
def test_sums_are_those_of_the_reference(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert name in MODELS
    path = folder(tmp_path_factory, name)
    chunks = [some_ids(90, 300, 1), some_ids(31, 300, 2)]
    expected = hooked(reference(path, "float64"), chunks)
    with open_source(path) as opened:
        calls: list[Any] = []
        found, rows = collect(opened.spec, opened.weights, chunks, lambda *given: calls.append(given))
        names = {theirs.name: ours.name for ours, theirs in tensors(opened.spec)}
        if opened.spec.tied:
            names["token_embd.weight"] = "lm_head.weight"
        layers = len(opened.spec.layers)
    assert rows == 121
    assert [call[:2] for call in calls] == [(i + 1, layers) for i in range(layers)]
    assert {names[name] for name in found} == set(expected)
    for name, values in found.items():
        assert np.allclose(values, expected[names[name]], rtol=1e-4, atol=1e-6 * expected[names[name]].max()), name


def test_a_gguf_file_gives_what_its_folder_gives(tmp_path: Path) -> None:
    made, file = pair(tmp_path, "llama")
    chunks, found = [some_ids(50, 60)], []
    for source in (made, file):
        with open_source(source) as opened:
            found.append(collect(opened.spec, opened.weights, chunks)[0])
    assert found[0].keys() == found[1].keys()
    for name, values in found[0].items():
        assert np.array_equal(values, found[1][name]), name
