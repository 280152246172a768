"""Measure the files of the built-in model with an independent implementation (transformers), and write its card."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from builtin_grammar import document, words
from builtin_grammar.references import Reference, references
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

ENGLISH, CHINESE = ("story", "everyday", "references"), ("chinese",)
ODD_TEXTS = [
    "  two  spaces  ",
    "a\nb\n\n c\t\r\n",
    "🙂 👩‍👩‍👧 café naïve",
    "今天天气真不错！龘",
    "\u0000\u200b",
    "x" * 50,
    "don't  stop",
    "<p>1234567890</p>",
]


def figures_of_text(model: Any, tokenizer: Any, kinds: tuple[str, ...], seen: set[str], count: int) -> dict[str, float]:
    """Perplexity per token (the end included) of fresh documents, and the share of them that training never saw."""
    rng = random.Random(987_654_321)
    total, tokens, unseen, new_loss, new_tokens = 0.0, 0, 0, 0.0, 0
    for index in range(count):
        text = document(rng, kinds[index % len(kinds)])
        ids = tokenizer(text, return_tensors="pt").input_ids
        ids = torch.cat((ids, torch.tensor([[tokenizer.eos_token_id]])), 1)
        with torch.no_grad():
            loss = functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="sum").item()
        total, tokens = total + loss, tokens + ids.shape[1] - 1
        if text not in seen:
            unseen, new_loss, new_tokens = unseen + 1, new_loss + loss, new_tokens + ids.shape[1] - 1
    return {
        "perplexity": round(math.exp(total / tokens), 3),
        "documents": count,
        "unseen_share": round(unseen / count, 3),
        "perplexity_of_unseen": round(math.exp(new_loss / max(new_tokens, 1)), 3),
    }


def both_readings(count: int) -> Iterator[Reference]:
    """Held-out sentences."""
    stream = references(random.Random(13_579), held_out=True)
    for _ in range(count):
        yield next(stream)


def figures_of_references(model: Any, tokenizer: Any, count: int) -> dict[str, Any]:
    """Where the referent is named: is the right noun likelier than the wrong one, and the likeliest of all tokens?"""
    tally: dict[str, list[int]] = {}
    for one in both_readings(count):
        ids = tokenizer(one.text[: one.cut], return_tensors="pt").input_ids
        right, wrong = (tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in (one.right, one.wrong))
        if right == wrong:
            continue
        with torch.no_grad():
            logits = model(ids).logits[0, -1]
        for key in ("all", f"family {one.family}", f"held out {one.held_out}"):
            row = tally.setdefault(key, [0, 0, 0])
            row[0] += 1
            row[1] += int(logits[right] > logits[wrong])
            row[2] += int(logits.argmax() == right)
    return {
        key: {"sentences": n, "right_of_two": round(a / n, 4), "right_of_all_tokens": round(b / n, 4)}
        for key, (n, a, b) in sorted(tally.items())
    }


def complete(model: Any, tokenizer: Any, prompt: str | Tensor, tokens: int = 300, **options: Any) -> list[list[int]]:
    """New tokens of each continuation, up to the end token and with it."""
    ids = tokenizer(prompt, return_tensors="pt").input_ids if isinstance(prompt, str) else prompt
    options = {"do_sample": False, "temperature": None, "top_p": None, "top_k": 0 if options else None} | options
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, **options)[
        :, ids.shape[1] :
    ].tolist()
    end = tokenizer.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in made]


def figures_of_stories(model: Any, tokenizer: Any, count: int) -> dict[str, Any]:
    """Stories sampled at temperature 0.8: do they end, and do they keep to their two characters?"""
    torch.manual_seed(20_240_501)
    rows = complete(model, tokenizer, "Once upon a time", do_sample=True, temperature=0.8, num_return_sequences=count)
    names = set(words.GIRLS + words.BOYS)
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    cast = [{word.strip('.,!?"').removesuffix("'s") for word in text.split()} & names for text in texts]
    return {
        "stories": count,
        "temperature": 0.8,
        "ended_within_300_tokens": round(sum(row[-1] == tokenizer.eos_token_id for row in rows) / count, 4),
        "at_most_two_names": round(sum(len(one) <= 2 for one in cast) / count, 4),
        "mean_tokens": round(sum(map(len, rows)) / count, 1),
        "samples": ["Once upon a time" + text for text in texts[:3]],
    }


def chat(model: Any, tokenizer: Any, *said: str) -> str:
    """The greedy answer to the last of these messages, user first."""
    roles = ["user", "assistant"]
    messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(said)]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)[
        "input_ids"
    ]
    return tokenizer.decode(complete(model, tokenizer, ids)[0])


def measure(folder: Path, seen: set[str], quick: bool = False) -> dict[str, Any]:
    """All figures of the files in a folder."""
    started = time.time()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.top_k = None
    greedy = {
        prompt: tokenizer.decode(complete(model, tokenizer, prompt)[0])
        for prompt in (
            "Once upon a time",
            "今天天气真",
            "The cat sat on the mat, it was tired",
            "The cat sat on the mat, it was soft",
            "The boy could not lift the box because it was too heavy",
            "The boy could not lift the box because he was too weak",
            "The dog dropped the ball because it was slippery",
            "The dog dropped the ball because it was sleepy",
            "The ball did not fit in the box because it was too big",
            "The ball did not fit in the box because it was too small",
        )
    }
    talks = {
        text: chat(model, tokenizer, text)
        for text in (
            "Hello!",
            "今天天气怎么样？",
            "The cat sat on the mat, it was tired. Who was tired?",
            "Tell me a story about a fox.",
            "What is the capital of France?",
        )
    }
    return {
        "parameters": sum(one.numel() for one in model.parameters()),
        "bytes": {
            path.name: path.stat().st_size
            for path in sorted(folder.iterdir())
            if path.suffix in (".json", ".safetensors") and path.name != "metrics.json"
        },
        "english": figures_of_text(model, tokenizer, ENGLISH, seen, 30 if quick else 600),
        "chinese": figures_of_text(model, tokenizer, CHINESE, seen, 30 if quick else 600),
        "references": figures_of_references(model, tokenizer, 40 if quick else 1200),
        "stories": figures_of_stories(model, tokenizer, 4 if quick else 100),
        "round_trip": all(
            tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text for text in ODD_TEXTS
        ),
        "greedy": greedy,
        "chat": talks,
        "measured_in_seconds": round(time.time() - started),
    }


CARD = """# The built-in model

A Llama of {parameters:,} parameters, stored in bfloat16 ({megabytes:.1f} MB with its tokenizer), so that `lanewise` can
be tried with no download. **It is a demonstration, not an assistant.** It knows nothing of the world: it has read only
sentences written by the grammar in `tools/builtin_grammar` (short English stories, sentences in which *it* must be
resolved, short Chinese sentences, a few kinds of dialogue). Away from those its text makes no sense, and what it says
about anything is no information.

Made by `python tools/train_builtin_model.py` (seed {seed}, {steps} steps of {tokens} tokens{time}). The corpus is
written by the project's own grammar and holds no text of others; weights and tokenizer are under the project's licence.

## Figures

Measured by `python tools/train_builtin_model.py --evaluate` on the shipped files, with the rounded weights, in
transformers.

| what | figure |
|---|---|
| perplexity per token, English (fresh documents of the grammar) | {english[perplexity]} |
| the same, documents that training never saw only ({english[unseen_share]:.0%} of them) | \
{english[perplexity_of_unseen]} |
| perplexity per token, Chinese | {chinese[perplexity]} |
| the same, documents that training never saw only ({chinese[unseen_share]:.0%} of them) | \
{chinese[perplexity_of_unseen]} |
| stories sampled at temperature 0.8 ({stories[stories]}): end within 300 tokens | {ended:.1%} |
| the same stories: at most two names, as the grammar has it | {cast:.1%} |

A grammar is far more regular than language, so these perplexities say nothing beside those of other models.

References: sentences such as *The cat sat on the mat, it was tired, so the cat fell asleep.* At the token that names
what *it* was, is the right one of the two nouns the likelier, and is it the likeliest of all tokens? About half of the
sentences mean the first noun, half the second. All are held out: either the pair of nouns never stood together in such
a sentence in training (pair), or the noun never stood with what is said of it (attribute).

| sentences | number | right of the two | right of all tokens |
|---|---|---|---|
{references_table}

The families: *seat* (The cat sat on the mat, it was tired / soft), *load* (The dog dropped the ball because it was
slippery / sleepy), *fit* (The ball did not fit in the box because it was too big / too small), *deed* (The bear hugged
the rabbit because it was sad / kind). In the first three, the kind of the noun and what is said of it decide. In *deed*
both are animals, only the verb and the roles decide, and a guess is right half of the time: compare its row with 50 %.

## Format of a dialogue

`<|bos|><|user|>...<|end|><|assistant|>...<|end|>`, written by the chat template, which adds `<|bos|>` itself. A system
message is written as `<|system|>...<|end|>`; the model has learned to take no notice of it. The context is 512 tokens.
"""


def write_card(folder: Path, figures: dict[str, Any], args: argparse.Namespace) -> None:
    """The figures as JSON, and as the model card."""
    path = folder / "metrics.json"
    if args.seconds is not None:
        figures["training"] = {
            "seconds": round(args.seconds),
            "threads": args.threads,
            "steps": args.steps,
            "tokens_per_step": args.tokens,
            "seed": args.seed,
        }
    elif path.exists():
        figures["training"] = json.loads(path.read_text(encoding="utf-8")).get("training")
    training = figures.get("training") or {}
    spent = f", {training['seconds'] / 60:.0f} minutes on one core" if training else ""
    table = "\n".join(
        f"| {key} | {row['sentences']} | {row['right_of_two']:.1%} | {row['right_of_all_tokens']:.1%} |"
        for key, row in figures["references"].items()
    )
    card = CARD.format(
        **figures,
        megabytes=sum(figures["bytes"].values()) / 1e6,
        seed=training.get("seed", args.seed),
        steps=training.get("steps", args.steps),
        tokens=training.get("tokens_per_step", args.tokens),
        time=spent,
        references_table=table,
        ended=figures["stories"]["ended_within_300_tokens"],
        cast=figures["stories"]["at_most_two_names"],
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
