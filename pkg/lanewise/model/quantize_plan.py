"""Which type each tensor of a model gets: the presets, and what happens where a type's blocks do not fit.

`q4` is IQ4_NL: of the types with 4.5 bits and blocks of 32 it has the least error (docs/quantisation.md), and its
look-up costs a few per cent of a product's speed. `q4m` is Q4_K with Q6_K where errors hurt most, the tensors that
llama.cpp's Q4_K_M has: v and down, in the first and last eighth of the layers and every third between. Embedding and
head take 6 bits, or 8 in files of 8; vectors stay float32.

`Q4_K_M` and its like are llama.cpp's mixtures: its choice for every matrix whose width the types fit, Q6_K for the head
(for the embedding where that is the head too). A name that is a type, as Q4_K or Q2_K, means that type.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .quantize import WRITABLE, kind_of
from .spec import Spec

PRESETS: dict[str, str] = {"q4": "IQ4_NL", "q4m": "Q4_K", "q6": "Q6_K", "q8": "Q8_0"}
# A type with blocks of 256 -> the one that takes its place where the width is a multiple of 32 only: no more error.
_NARROW = {"Q2_K": "IQ4_NL", "Q3_K": "IQ4_NL", "IQ4_XS": "IQ4_NL", "Q4_K": "Q4_1", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_FLOATS = ("F32", "F16", "BF16")
# llama.cpp's number for a file of mostly one type (llama_ftype in include/llama.h)
_FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 11, "Q4_K": 14,
    "Q5_K": 16, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32, "MXFP4": 38,
}  # fmt: skip
# llama.cpp's names of mixtures -> its number (as above), the type of most matrices
MIXTURES = {
    "Q3_K_S": (11, "Q3_K"), "Q3_K_M": (12, "Q3_K"), "Q3_K_L": (13, "Q3_K"), "Q4_K_S": (14, "Q4_K"),
    "Q4_K_M": (15, "Q4_K"), "Q5_K_S": (16, "Q5_K"), "Q5_K_M": (17, "Q5_K"),
}  # fmt: skip
KNOWN = (*PRESETS, *MIXTURES, *WRITABLE)
_LARGE = 80  # layers of the models with 70 billion weights, whose v is small


@dataclass(slots=True)
class Plan:
    """name: a preset, a mixture or a type, in any case. layers: of the model. embed, head: types in place of the usual.

    tied: the embedding is the head too.
    fallbacks: (tensor, type wanted, type taken, width), filled by `type`.
    """

    name: str
    layers: int
    embed: str | None = None
    head: str | None = None
    tied: bool = False
    fallbacks: list[tuple[str, str, str, int]] = field(default_factory=list)

    @classmethod
    def of(cls, spec: Spec, name: str, embed: str | None = None, head: str | None = None) -> Plan:
        """The plan of a model."""
        return cls(name, len(spec.layers), embed, head, spec.tied)

    def __post_init__(self) -> None:
        """ValueError for a name that is neither a preset nor a type that can be written."""
        if self.name.lower() not in PRESETS and self.name.upper() not in KNOWN:
            raise ValueError(
                f"{self.name!r} is neither a preset nor a type that can be written; known: {', '.join(KNOWN)}"
            )
        self.embed, self.head = (None if t is None else kind_of(t).name for t in (self.embed, self.head))

    @property
    def base(self) -> str:
        """The type of most matrices."""
        name = self.name.upper()
        return MIXTURES[name][1] if name in MIXTURES else PRESETS.get(self.name.lower(), name)

    @property
    def file_type(self) -> int:
        """llama.cpp's number for such a file."""
        name = "Q4_K_M" if self.name.lower() == "q4m" else self.name.upper()
        return MIXTURES[name][0] if name in MIXTURES else _FILE_TYPES[self.base]

    def wanted(self, role: str, layer: int | None) -> str:
        """The type of a matrix, whatever its width."""
        base, mixture = self.base, self.name.upper() in MIXTURES
        if role in ("embed", "head"):
            usual = base if base in (*_FLOATS, "Q8_0") else "Q6_K"
            if mixture and role == "embed" and not self.tied:
                usual = base
            return (self.embed if role == "embed" else self.head) or usual
        if mixture:
            return self._mixed(role, layer or 0)
        if self.name.lower() == "q4m" and role in ("v", "down") and self._more_bits(layer or 0):
            return "Q6_K"
        return base

    def type(self, role: str, layer: int | None, shape: tuple[int, ...], name: str = "", stored: str = "F32") -> str:
        """The type of a tensor of that shape; `stored`: what the source has, for a matrix that no blocks fit."""
        if len(shape) == 1:
            return "F32"
        wanted = taken = self.wanted(role, layer)
        if shape[-1] % kind_of(taken).block:
            taken = _NARROW.get(taken, taken)
        if shape[-1] % kind_of(taken).block:
            taken = "BF16" if stored == "BF16" else "F16"
        if taken != wanted:
            self.fallbacks.append((name, wanted, taken, shape[-1]))
        return taken

    def _mixed(self, role: str, i: int) -> str:
        """What llama.cpp gives a matrix of layer i (llama_tensor_get_type in src/llama-quant.cpp)."""
        name, base = self.name.upper(), self.base
        v, down = role == "v", role == "down"
        found = base
        if name in ("Q4_K_M", "Q5_K_M") and (v or down) and self._more_bits(i):
            found = "Q6_K"
        elif name == "Q4_K_S" and ((v and i < 4) or (down and i < self.layers // 8)):
            found = "Q5_K"
        elif name in ("Q3_K_L", "Q3_K_M") and role in ("v", "down", "o"):
            more = name == "Q3_K_L" or (v and i < 2) or (down and i < self.layers // 16)
            found = "Q5_K" if more else "Q4_K"
        return "Q5_K" if v and self.layers == _LARGE and found in ("Q3_K", "Q4_K") else found

    def _more_bits(self, i: int) -> bool:
        eighth = self.layers // 8
        return i < eighth or i >= 7 * self.layers // 8 or (i - eighth) % 3 == 2
