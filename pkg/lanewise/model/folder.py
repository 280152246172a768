"""From what a user types to a model folder or file on this machine. Nothing is downloaded here."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import LoadError, UnsupportedError, shorten
from . import files
from .config import CONFIG

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9._-]{1,96}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


def resolve(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The model folder, or the GGUF file, that `source` means.

    "builtin": the model that the package ships. A folder: itself, or the one GGUF file in it if it has no config.json.
    A .safetensors file: its folder. A .gguf file: itself. "owner/name": the snapshot of `revision` (a branch, tag or
    commit; None: main) in the local Hugging Face cache, as a folder. Raises LoadError, with what to do.
    """
    text = os.fspath(source)
    if text == "builtin":
        builtin = Path(__file__).parent.parent / "builtin"
        return (
            builtin if builtin.is_dir() else _missing(builtin, "the built-in model is missing from this installation")
        )
    path = Path(text).expanduser()
    if path.is_dir():
        return _gguf_in(path)
    if path.is_file():
        if path.suffix in (".safetensors", ".gguf"):
            return path.parent if path.suffix == ".safetensors" else path
        raise UnsupportedError("is neither a model folder nor a .safetensors or .gguf file", file=path)
    if _NAME.fullmatch(text) and not text.startswith((".", "/")) and ".." not in text:
        return _gguf_in(_cached(text, revision))
    return _missing(path, "there is no such folder or file; a name in the Hugging Face cache has the form owner/name")


def _gguf_in(folder: Path) -> Path:
    """The folder, unless it has no config.json but one GGUF file: that."""
    if files.has(folder, CONFIG):
        return folder
    found = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".gguf"))
    if len(found) > 1:
        raise LoadError(f"has {len(found)} GGUF files; name one of them: {', '.join(found[:8])}", file=folder)
    if not found:
        return folder
    files.member(folder, found[0])  # a link may not lead anywhere
    return folder / found[0]


def cache_folder() -> Path:
    """Where huggingface_hub keeps models: HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME or ~/.cache."""
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{base}/huggingface").expanduser() / "hub"


def _cached(name: str, revision: str | None) -> Path:
    entry = cache_folder() / ("models--" + name.replace("/", "--"))
    how = f"download it with: hf download {name}" + (f" --revision {revision}" if revision else "")
    if not entry.is_dir():
        return _missing(name, f"is no folder here and not in the Hugging Face cache ({cache_folder()}); {how}")
    wanted = revision or "main"
    if not _REVISION.fullmatch(wanted) or ".." in wanted:
        raise LoadError(f"{shorten(wanted)!r} is not the name of a revision", file=name)
    commit = wanted
    if (entry / "refs" / wanted).is_file():
        commit = files.read_bytes(entry / "refs" / wanted, 1000).decode("ascii", "replace").strip()
        if not files.is_plain_name(commit):
            raise LoadError(f"does not hold the name of a commit: {shorten(commit)!r}", file=entry / "refs" / wanted)
    snapshot = entry / "snapshots" / commit
    if "/" in commit or not snapshot.is_dir():
        return _missing(name, f"revision {shorten(wanted)} is not in the Hugging Face cache ({entry}); {how}")
    return snapshot


def _missing(what: str | Path, message: str) -> Path:
    raise LoadError(message, file=what)
