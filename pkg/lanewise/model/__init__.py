"""Between a model's files and the engine: what the model is (spec), and where its numbers lie (safetensors, GGUF)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .arch import build
from .config import Generation, read_config, read_generation
from .folder import resolve
from .quantised import Scheme, read_scheme
from .safetensors import Weights, open_weights
from .spec import Spec

__all__ = ["Generation", "Spec", "Weights", "build", "open_weights", "read_model", "resolve"]


def read_model(folder: Path) -> tuple[Spec, Generation, Scheme | None]:
    """What config.json and generation_config.json of `folder` say; the scheme says how weights are quantised, if so.

    Raises LoadError; weights are not looked at.
    """
    config = read_config(folder)
    spec, scheme = build(config), read_scheme(config)
    if scheme is not None:
        spec = replace(spec, stored=str(scheme))
    return spec, read_generation(folder, config), scheme
