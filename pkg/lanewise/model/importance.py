"""How much each input of each matrix matters: the mean of its squares over a text, in the form of llama.cpp's imatrix.

The file is GGUF with `general.type` "imatrix": for a matrix `name`, `name.in_sum2` (float32, one sum of squares per
column) and `name.counts` (how many rows of activations). So llama.cpp's tools and lanewise read each other's files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import LoadError, shorten
from .gguf import open_gguf
from .gguf_writer import Declared, GgufWriter, Value

Floats = np.ndarray[Any, np.dtype[np.float32]]
_SUM, _COUNT = ".in_sum2", ".counts"


def read_importance(path: str | os.PathLike[str]) -> dict[str, Floats]:
    """name of a matrix (as GGUF has it) -> float32[columns]. Raises LoadError, naming file and tensor."""
    with open_gguf(path) as file:
        if file.metadata.get("general.type") != "imatrix":
            found = shorten(file.metadata.get("general.type"))
            raise LoadError(f"is {found}, not 'imatrix': no importance file", file=path, field="general.type")
        result: dict[str, Floats] = {}
        for tensor in file.tensors.values():
            if not tensor.name.endswith(_SUM):
                continue
            name = tensor.name.removesuffix(_SUM)
            counted = file.tensor(name + _COUNT)
            for part in (tensor, counted):
                if part.type.name != "F32":
                    raise LoadError(f"is {part.type.name}, not F32", file=path, field=part.name)
            if math.prod(counted.shape) != 1 or math.prod(tensor.shape[:-1]) != 1:
                raise LoadError("is of several matrices at once (experts)", file=path, field=name)
            count = float(file.array(counted.name).reshape(-1)[0])
            if not count >= 1:
                raise LoadError(f"counts {count} rows", file=path, field=counted.name)
            values = (file.array(tensor.name).reshape(-1).astype(np.float64) / count).astype(np.float32)
            if not (np.isfinite(values) & (values >= 0)).all():
                raise LoadError("has a value that is negative or not finite", file=path, field=name)
            result[name] = values
    if not result:
        raise LoadError(f"holds no tensor whose name ends in {_SUM}", file=path)
    return result


def write_importance(
    path: str | os.PathLike[str],
    sums: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]],
    count: int,
    *,
    text: str,
    chunk: int,
    overwrite: bool = False,
) -> None:
    """sums: name -> sums of squares over `count` rows. Raises FileExistsError, OSError."""
    metadata = {
        "general.type": Value("STRING", "imatrix"),
        "imatrix.datasets": Value("STRING", [text]),
        "imatrix.chunk_count": Value("UINT32", -(-count // chunk)),
        "imatrix.chunk_size": Value("UINT32", chunk),
    }
    tensors = []
    for name, values in sums.items():
        tensors += [Declared(name + _SUM, "F32", (1, len(values))), Declared(name + _COUNT, "F32", (1, 1))]
    with GgufWriter(path, metadata, tensors, overwrite=overwrite) as writer:
        for name, values in sums.items():
            writer.write(name + _SUM, values.astype("<f4"))
            writer.write(name + _COUNT, np.array([count], "<f4"))
