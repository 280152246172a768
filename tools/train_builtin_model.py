"""Train the small model that ships inside the package, from nothing but the grammar beside this file.

python tools/train_builtin_model.py               the model that ships: fixed seed, fixed number of steps
python tools/train_builtin_model.py --quick       a minute of training into a temporary folder: a smoke test
python tools/train_builtin_model.py --evaluate    measure the shipped files again, train nothing
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from builtin_grammar import corpus, echoes
from builtin_grammar.tokens import BOS, CHAT, END, PAD, train_tokenizer
from measure_builtin_model import measure, write_card
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

SHIPPED = Path(__file__).resolve().parents[1] / "pkg" / "lanewise" / "builtin"
WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, HIDDEN, VOCABULARY, CONTEXT = 192, 5, 6, 2, 32, 512, 2048, 512
THETA, EPSILON = 10000.0, 1e-5
FIRST, PLATEAU = 400, 850  # steps before the stretch of practice, and before the learning rate goes down


# --- the model --------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """One layer of a Llama: attention with shared keys, then the gated half; q, k and v lie in one matrix here."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))
        self.qkv = nn.Linear(WIDTH, (HEADS + 2 * KV_HEADS) * HEAD, bias=False)
        self.out = nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        self.gate_up = nn.Linear(WIDTH, 2 * HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        rows, length, _ = x.shape
        y = self.qkv(functional.rms_norm(x, (WIDTH,), self.norm1, EPSILON)).view(rows, length, -1, HEAD).transpose(1, 2)
        a, b = y[:, : HEADS + KV_HEADS].chunk(2, -1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
        k = turned[:, HEADS:].repeat_interleave(HEADS // KV_HEADS, 1)
        v = y[:, HEADS + KV_HEADS :].repeat_interleave(HEADS // KV_HEADS, 1)
        mixed = functional.scaled_dot_product_attention(turned[:, :HEADS], k, v, mask, is_causal=mask is None)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, -1))
        gate, up = self.gate_up(functional.rms_norm(x, (WIDTH,), self.norm2, EPSILON)).chunk(2, -1)
        return x + self.down(functional.silu(gate) * up)


class Model(nn.Module):
    """A small Llama with tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.Parameter(torch.ones(WIDTH))
        for name, one in self.named_parameters():
            if one.ndim == 2:
                nn.init.normal_(one, std=0.1 if name == "embed.weight" else 0.02)
            if name.endswith(("out.weight", "down.weight")):
                nn.init.zeros_(one)
        angle = torch.outer(torch.arange(CONTEXT), THETA ** (-torch.arange(0, HEAD, 2) / HEAD))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        x, length = self.embed(ids), ids.shape[1]
        for block in self.blocks:
            x = block(x, self.cos[:length], self.sin[:length], mask)
        return functional.linear(functional.rms_norm(x, (WIDTH,), self.norm, EPSILON), self.embed.weight)


def own_document(ids: Tensor) -> Tensor:
    """What each token may see: its own document only; in the first row, which learns long distances, all before it."""
    number = (ids == BOS).cumsum(1)
    same = number[:, :, None] == number[:, None, :]
    same[0] = True
    return same.tril()[:, None]


class Muon(torch.optim.Optimizer):
    """Momentum whose step for each matrix is made orthogonal (Newton-Schulz in float32).

    Known to need fewer tokens than AdamW, which keeps the embeddings and the norms here.
    """

    def __init__(self, params: list[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for one in group["params"]:
                speed = self.state[one].setdefault("speed", torch.zeros_like(one))
                speed.lerp_(one.grad, 1 - group["momentum"])
                way = one.grad.lerp(speed, group["momentum"])
                one.mul_(1 - group["lr"] * group["decay"])
                one.add_(self.orthogonal(way), alpha=-group["lr"] * 0.2 * math.sqrt(max(one.shape)))

    @staticmethod
    def orthogonal(way: Tensor) -> Tensor:
        """The nearest matrix with orthogonal rows, nearly, in five steps."""
        flip = way.shape[0] > way.shape[1]
        x = way.T if flip else way
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        return x.T if flip else x


# --- training ---------------------------------------------------------------------------------------------------------


def pack(documents: list[list[int]], length: int, rng: random.Random) -> Tensor:
    """Fill rows of length + 1 with whole documents; what is left of a row is padding."""
    order = list(range(len(documents)))
    rng.shuffle(order)
    open_rows: list[list[int]] = []
    rows: list[list[int]] = []
    for index in order:
        ids = documents[index][: length + 1]
        fitting = [row for row in open_rows if len(row) + len(ids) <= length + 1]
        row = max(fitting, key=len, default=None)
        if row is None:
            row = []
            open_rows.append(row)
        row += ids
        if len(row) > length - 6 or len(open_rows) > 48:
            full = max(open_rows, key=len)
            open_rows = [one for one in open_rows if one is not full]
            rows.append(full)
    rng.shuffle(rows)
    return torch.tensor([row + [PAD] * (length + 1 - len(row)) for row in rows])


def batches(
    documents: list[list[int]], practice: list[list[int]], steps: int, tokens: int, seed: int
) -> Iterator[Tensor]:
    """`steps` batches: the corpus; a stretch with much practice in naming again; the corpus; at last, longer rows."""
    rng = random.Random(seed)
    late = steps // 10
    stages = (
        (documents, 256, min(FIRST, steps - late)),
        (documents[: len(practice)] + practice, 256, PLATEAU - FIRST),
        (documents + practice[::3], 256, steps - late - PLATEAU),
        (documents + practice[::3], CONTEXT, late),
    )
    for chosen, length, count in stages:
        per_step = tokens // length
        made = 0
        while made < count:
            data = pack(chosen, length, rng)
            for start in range(0, len(data) - per_step + 1, per_step):
                if made < count:
                    yield data[start : start + per_step]
                    made += 1


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: a short warm-up, a plateau, and a straight way down to nothing.

    On the plateau nothing depends on `steps`: a run that is stopped there can go on with another number of steps.
    """
    return min((step + 1) / 30, 1.0, (steps - step) / max(steps - PLATEAU, 1))


def train(args: argparse.Namespace, documents: list[list[int]], practice: list[list[int]]) -> Model:
    """Train from the seed, or from the checkpoint where one is kept."""
    torch.manual_seed(args.seed)
    model = Model()
    matrices = [one for block in model.blocks for one in block.parameters() if one.ndim == 2]
    chosen = {id(one) for one in matrices}
    others = [one for one in model.parameters() if id(one) not in chosen]
    optimizers = [
        Muon(matrices, lr=args.rate),
        torch.optim.AdamW(others, lr=args.rate / 2, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    plan = batches(documents, practice, args.steps, args.tokens, args.seed)
    started, first = time.time(), 0
    saved = args.checkpoints / "training.pt" if args.checkpoints else None
    if saved and saved.exists():
        state = torch.load(saved)
        first = state["step"] + 1
        started -= state["seconds"]
        model.load_state_dict(state["model"])
        for optimizer, one in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(one)
    for step, data in enumerate(islice(plan, args.steps)):
        if step < first:
            continue
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(step, args.steps)
        logits = model(data[:, :-1], own_document(data[:, :-1]))
        loss = functional.cross_entropy(logits.reshape(-1, VOCABULARY), data[:, 1:].reshape(-1), ignore_index=PAD)
        loss.backward()
        nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 10 == 0 or step == args.steps - 1:
            seconds = time.time() - started
            print(
                f"step {step} loss {loss.item():.4f} {(step + 1) * args.tokens / seconds:.0f} tokens/s {seconds:.0f} s",
                flush=True,
            )
        if saved and step % 25 == 24:
            saved.parent.mkdir(parents=True, exist_ok=True)
            state = {
                "step": step,
                "seconds": time.time() - started,
                "model": model.state_dict(),
                "optimizers": [one.state_dict() for one in optimizers],
            }
            torch.save(state, saved.with_suffix(".new"))
            saved.with_suffix(".new").replace(saved)
    args.seconds = time.time() - started
    return model


# --- the files that ship ----------------------------------------------------------------------------------------------


def tensors(model: Model) -> dict[str, Tensor]:
    """The weights in bfloat16 under the names of Hugging Face's Llama."""
    named = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm}
    for index, block in enumerate(model.blocks):
        at = f"model.layers.{index}."
        q, k, v = block.qkv.weight.split([HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD])
        gate, up = block.gate_up.weight.chunk(2)
        named |= {
            f"{at}input_layernorm.weight": block.norm1,
            f"{at}post_attention_layernorm.weight": block.norm2,
            f"{at}self_attn.q_proj.weight": q,
            f"{at}self_attn.k_proj.weight": k,
            f"{at}self_attn.v_proj.weight": v,
            f"{at}self_attn.o_proj.weight": block.out.weight,
            f"{at}mlp.gate_proj.weight": gate,
            f"{at}mlp.up_proj.weight": up,
            f"{at}mlp.down_proj.weight": block.down.weight,
        }
    return {name: value.detach().to(torch.bfloat16).contiguous() for name, value in named.items()}


def configs() -> dict[str, dict[str, object]]:
    """The JSON files beside the weights."""
    model: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPSILON,
        "rope_theta": THETA,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": BOS,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "torch_dtype": "bfloat16",
    }
    generation: dict[str, object] = {
        "bos_token_id": BOS,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.95,
    }
    tokenizer: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "chat_template": CHAT,
    }
    return {"config.json": model, "generation_config.json": generation, "tokenizer_config.json": tokenizer}


def export(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """Write all files beside their places, then move each into its place."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary)
        save_file(tensors(model), new / "model.safetensors", metadata={"format": "pt"})
        tokenizer.save(str(new / "tokenizer.json"), pretty=False)
        for name, content in configs().items():
            (new / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for path in sorted(new.iterdir()):
            path.chmod(0o644)
            os.replace(path, folder / path.name)


def arguments() -> argparse.Namespace:
    """The command line; the defaults are what made the shipped model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the files (default: the package's own)")
    parser.add_argument("--steps", type=int, default=1700, help="training steps (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=3072, help="tokens in a step (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=100_000, help="documents in the corpus (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of corpus and training (default: %(default)s)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads; the bits are the same for the same number (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoints", type=Path, help="folder for a checkpoint now and then; what is there is continued"
    )
    parser.add_argument("--evaluate", action="store_true", help="measure the files in --out, train nothing")
    parser.add_argument("--quick", action="store_true", help="30 steps, a small corpus, a short measurement")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.documents = 30, 4000
        args.out = args.out or Path(tempfile.mkdtemp(prefix="builtin-model-"))
    args.out = args.out or SHIPPED
    args.seconds = None
    return args


def main() -> None:
    """Generate, train, export, measure."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    texts = corpus(args.seed, args.documents)
    if not args.evaluate:
        tokenizer = train_tokenizer(texts[:40_000], VOCABULARY)
        documents, practice = (
            [[*one.ids, END] for one in tokenizer.encode_batch(some)]
            for some in (texts, echoes(args.seed, args.documents // 10))
        )
        print(
            f"{len(texts)} documents, {sum(map(len, documents))} tokens, longest {max(map(len, documents))}", flush=True
        )
        export(train(args, documents, practice), tokenizer, args.out)
    figures = measure(args.out, set(texts), quick=args.quick)
    write_card(args.out, figures, args)
    print(json.dumps(figures, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
