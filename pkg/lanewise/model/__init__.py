"""Between a model's files and the engine: what the model is (spec), and where its numbers lie (safetensors, GGUF)."""

from __future__ import annotations

from pathlib import Path

from .arch import build
from .config import Generation, read_config, read_generation
from .folder import resolve
from .safetensors import Weights, open_weights
from .spec import Spec

__all__ = ["Generation", "Spec", "Weights", "build", "open_weights", "read_model", "resolve"]


def read_model(folder: Path) -> tuple[Spec, Generation]:
    """What config.json and generation_config.json of `folder` say. Raises LoadError; weights are not looked at."""
    config = read_config(folder)
    return build(config), read_generation(folder, config)
