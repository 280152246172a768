"""Tiny seeded models of every architecture, saved as Hugging Face folders, and a Player that steps a Model by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lanewise.model.model import Model

Ints = np.ndarray[Any, np.dtype[np.int32]]
Floats = np.ndarray[Any, np.dtype[np.float32]]

COMMON: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _rope(kind: str, **given: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **given}}


# name -> (model_type, what differs from COMMON)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-wide": ("llama", {"intermediate_size": 160}),  # widths that are multiples of 32
    "llama-bias": (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "hidden_size": 44, "head_dim": 10,
         "intermediate_size": 77, "num_key_value_heads": 4, "hidden_act": "gelu_pytorch_tanh"},
    ),
    "llama-one-kv-head": (
        "llama", {"num_attention_heads": 5, "num_key_value_heads": 1, "hidden_size": 60, "head_dim": 18}
    ),
    "llama-linear": ("llama", _rope("linear", factor=2.5)),
    "llama-dynamic": ("llama", {**_rope("dynamic", factor=3.0), "max_position_embeddings": 128}),
    "llama-llama3": (
        "llama",
        _rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128),
    ),
    "llama-yarn": ("llama", _rope("yarn", factor=8.0, original_max_position_embeddings=64)),
    "mistral": ("mistral", {"sliding_window": 37}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 50, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"hidden_size": 40, "head_dim": 24, "tie_word_embeddings": True}),
    "qwen3-window": ("qwen3", {"head_dim": 32, "use_sliding_window": True, "sliding_window": 70, "max_window_layers": 2,
                               "attention_bias": True}),
}  # fmt: skip
POSITIONS = 300  # over one attention segment, over four pages, over every window
_made: dict[tuple[str, str], Path] = {}


def torch_here() -> Any:
    """torch on one thread; the test is skipped where torch or transformers are not installed."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    torch.set_num_threads(1)
    return torch


def folder(factory: pytest.TempPathFactory, name: str, dtype: str = "float32") -> Path:
    """The saved model `name` with weights in `dtype`; made once a session."""
    if (name, dtype) not in _made:
        torch = torch_here()
        from transformers import AutoConfig, AutoModelForCausalLM

        model_type, given = MODELS[name]
        config = AutoConfig.for_model(model_type, **{**COMMON, **given})
        model = AutoModelForCausalLM.from_config(config)
        _seed(torch, model, sum(name.encode()))
        path = factory.mktemp(f"{name}-{dtype}")
        model.to(getattr(torch, dtype)).save_pretrained(path)
        _made[name, dtype] = path
    return _made[name, dtype]


def _seed(torch: Any, model: Any, seed: int) -> None:
    """Weights at which attention is not flat and logits differ by some units."""
    random = torch.Generator().manual_seed(seed)

    def normal(p: Any) -> Any:
        return torch.randn(p.shape, generator=random)

    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(1 + 0.2 * normal(p))
            elif p.ndim == 1:
                p.copy_(0.2 * normal(p))
            elif "embed" in name:
                p.copy_(normal(p) * (2 / p.shape[1] ** 0.5 if model.config.tie_word_embeddings else 1))
            else:
                p.copy_(normal(p) * 1.3 / p.shape[1] ** 0.5)


def reference(path: Path, dtype: str) -> Any:
    """transformers' model of a folder, computing in `dtype`, its plainest attention."""
    torch = torch_here()
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), attn_implementation="eager").eval()


def reference_logits(model: Any, ids: Ints) -> np.ndarray[Any, np.dtype[Any]]:
    """Logits of every position of one forward, float32 or float64 as the model computes."""
    torch = torch_here()
    with torch.no_grad():
        logits = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0]
    return (logits.float() if logits.dtype == torch.bfloat16 else logits).numpy()


def some_ids(n: int, vocabulary: int, seed: int = 0) -> Ints:
    return np.random.default_rng(seed).integers(3, vocabulary, n).astype(np.int32)


@dataclass
class Seq:
    """One sequence: its pages, and how many positions they hold."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


class Player:
    """Steps of a Model over sequences with pages of their own: the engine in its plainest form.

    Pages are given out in a scattered order, so that a wrong page is a wrong result.
    """

    def __init__(self, model: Model, pages: int = 64) -> None:
        self.model = model
        model.reserve_pages(pages)
        self.free = [int(page) for page in np.random.default_rng(7).permutation(pages)]

    def step(self, works: list[tuple[Seq, Ints]], last_only: bool = False) -> list[Floats]:
        """Appends the tokens to each sequence in one step; logits of all new rows (or the last) of each."""
        starts, logit_rows = [0], []
        for seq, tokens in works:
            while len(seq.pages) < self.model.pages_for(seq.length + len(tokens)):
                seq.pages.append(self.free.pop())
            rows = range(starts[-1], starts[-1] + len(tokens))
            logit_rows.append(list(rows)[-1:] if last_only else list(rows))
            starts.append(rows.stop)
        table = np.zeros((len(works), max(len(seq.pages) for seq, _ in works)), np.int32)
        for i, (seq, _) in enumerate(works):
            table[i, : len(seq.pages)] = seq.pages
        out = self.model.run(
            np.concatenate([tokens for _, tokens in works]).astype(np.int32),
            np.array(starts, np.int32),
            np.array([seq.length for seq, _ in works], np.int32),
            table,
            np.concatenate(logit_rows).astype(np.int32),
        )
        for seq, tokens in works:
            seq.length += len(tokens)
        return np.split(out, np.cumsum([len(rows) for rows in logit_rows])[:-1])

    def feed(self, ids: Ints, lengths: list[int] | None = None, seq: Seq | None = None) -> Floats:
        """Logits of every row of one sequence, fed in pieces of `lengths` (None: whole)."""
        seq = seq or Seq()
        cuts = np.cumsum(lengths)[:-1] if lengths else []
        return np.concatenate([self.step([(seq, piece)])[0] for piece in np.split(ids, cuts) if len(piece)])

    def fork(self, seq: Seq) -> Seq:
        """A copy: whole pages shared, the last one copied if it is not full."""
        pages = seq.pages[: self.model.pages_for(seq.length)]
        if seq.length % self.model.page_tokens:
            fresh = self.free.pop()
            self.model.copy_page(pages[-1], fresh)
            pages = [*pages[:-1], fresh]
        return Seq(list(pages), seq.length)

    def greedy(self, ids: Ints, n: int) -> list[int]:
        """The n likeliest tokens after ids, one after another."""
        seq, out = Seq(), []
        tokens = ids
        for _ in range(n):
            logits = self.step([(seq, tokens)], last_only=True)[0][0]
            out.append(int(logits.argmax()))
            tokens = np.array(out[-1:], np.int32)
        return out


def same_bits(a: Floats, b: Floats) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def usable_isas() -> list[str]:
    """The tables that this machine can run, best first."""
    from lanewise import _native

    return [table.name for table in _native.isas() if table.missing is None and "broken" not in table.name]
