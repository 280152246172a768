"""lanewise: fast, exact CPU inference of transformer language models.

    import lanewise
    llm = lanewise.load("builtin")
    print(llm.generate("Once upon a time", max_tokens=64))

Everything here is loaded when it is first used, so that importing the package stays cheap.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # type checkers take it as true; importing typing would cost milliseconds
if TYPE_CHECKING:
    from . import kernels
    from .engine.params import SamplingParams
    from .errors import ContextError, LanewiseError, LoadError
    from .llm import LLM, load
    from .results import Chunk, Result, Score
    from .sequence import Sequence
    from .session import ChatSession

__version__ = "0.1.0"

_HOME = {  # public name -> the module that defines it
    "load": "llm", "LLM": "llm", "Sequence": "sequence", "ChatSession": "session", "SamplingParams": "engine.params",
    "Result": "results", "Chunk": "results", "Score": "results",
    "LanewiseError": "errors", "LoadError": "errors", "ContextError": "errors",
}  # fmt: skip

__all__ = [
    "LLM", "ChatSession", "Chunk", "ContextError", "LanewiseError", "LoadError", "Result", "SamplingParams", "Score",
    "Sequence", "__version__", "kernels", "load",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name == "kernels":
        return importlib.import_module(".kernels", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("." + _HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
