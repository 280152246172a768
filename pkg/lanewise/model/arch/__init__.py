"""The architectures: one small file each, named as Hugging Face's `model_type`. The files are the registry.

Each has `spec(config) -> Spec`, data only. To add one, add the file and a test against the reference.
"""

from __future__ import annotations

import importlib
import pkgutil

from ...errors import UnsupportedError, shorten
from ..config import CONFIG, Config
from ..spec import Spec


def known() -> list[str]:
    """The model types there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def build(config: Config) -> Spec:
    """The Spec of a config. UnsupportedError, naming the known ones, for an unknown model_type; LoadError."""
    model_type = config.model_type
    if model_type not in known():
        raise UnsupportedError(
            f"model_type {shorten(model_type)!r} is not known; known: {', '.join(known())}",
            file=config.file.parent / CONFIG,
            field="model_type",
        )
    spec: Spec = importlib.import_module(f"{__name__}.{model_type}").spec(config)
    return spec
