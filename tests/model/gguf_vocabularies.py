"""GGUF files that hold a vocabulary and next to nothing else, and texts that are hard to cut."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corpus.make import ARR, BOOL, F32, I32, STR, U8, U32, Gguf, array, f32, layer, value

T = "tokenizer.ggml."
HARD = [
    "", " ", "  ", "\n", "\t\t\n \n\n", "a", " a", "a ", "  a  b  ", "Hello, world!", "I'll I'LL we've don'T it's 'S",
    "1", "12", "123", "1234", "12345678901 3.14159 ٣٤٥ ¼ Ⅷ", "=" * 9 + "-" * 33, " " * 40 + "x" + " " * 7 + "\r\n\r\n",
    "Ein schöner Tag, Größe", "Ελληνικά Κείμενο", "Русский текст", "中文字符，测试。你好世界", "こんにちは カタカナ",
    "한국어 문장",
    "हिन्दी में", "ไทย ภาษา", "עברית", "العربية", "🙂👩‍👩‍👧‍👦🇩🇪", "e\u0301 é ﬁ Å Ａ１",
    "x\u00a0y\u3000z\u200b", "\ufeffbom", "a\u2028b", "camelCaseHTTPServer snake_case", "$5 + €6 < £7 ~ ^|`",
    "def f(x):\n    return x ** 2  # ok\n", "https://a.b/c?d=e&f=%20",
    "▁ and ▁▁", "<0x41> <unk> </s>", "\u0000\u0001\u007f", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abababababababab",
    "\U0001d400\U0001d7ce \u1e9e ǅ ƻ ʔ", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "a\r\nb\rc\n\n\nd", "¡¿¶§", "—–‘’“”…",
]  # fmt: skip


def texts(count: int, seed: int, pieces: Sequence[str], prose: str) -> list[str]:
    """HARD, then texts of several kinds: prose, runs, pieces of the vocabulary, characters from everywhere."""
    rng = random.Random(seed)
    found = list(HARD)
    while len(found) < count:
        kind = rng.random()
        if kind < 0.4:
            start = rng.randrange(max(1, len(prose) - 200))
            found.append(prose[start : start + rng.randrange(1, 200)])
        elif kind < 0.6:
            found.append("".join(rng.choice(" aab =-_.eth\n0") * rng.randrange(1, 9) for _ in range(rng.randrange(25))))
        elif kind < 0.8:
            found.append("".join(rng.choice(pieces) for _ in range(rng.randrange(1, 12))).replace("▁", " "))
        else:
            spans = ((32, 127), (0x80, 0x500), (0x900, 0xE00), (0x3000, 0x9FFF), (0xAC00, 0xD7A0), (0x1F300, 0x1F700))
            found.append("".join(chr(rng.randrange(*rng.choice(spans))) for _ in range(rng.randrange(1, 40))))
    return found


def vocabulary_file(path: Path, model: str, tokens: Sequence[str], **given: Any) -> Path:
    """A file of one tiny layer with these tokens. given: keys without `tokenizer.ggml.`, and their values."""
    n = len(tokens)
    sizes = {"context_length": 64, "embedding_length": 8, "block_count": 1, "feed_forward_length": 12,
             "attention.head_count": 2, "attention.head_count_kv": 1}  # fmt: skip
    pairs = {"general.architecture": value(STR, "llama")}
    pairs |= {f"llama.{key}": value(U32, number) for key, number in sizes.items()}
    pairs["llama.attention.layer_norm_rms_epsilon"] = value(F32, 1e-5)
    pairs |= {f"{T}model": value(STR, model), f"{T}tokens": value(ARR, array(STR, list(tokens)))}
    for key, item in given.items():
        name = T + key if key != "chat_template" else "tokenizer.chat_template"
        if isinstance(item, list):
            kind = {"scores": F32, "token_type": I32, "precompiled_charsmap": U8}.get(key, STR)
            pairs[name] = value(ARR, array(kind, item))
        else:
            kind = BOOL if isinstance(item, bool) else U32 if isinstance(item, int) else STR
            pairs[name] = value(kind, item)
    made = Gguf(list(pairs.items()), [f32("token_embd.weight", 8, n), f32("output_norm.weight", 8), *layer(0)])
    path.write_bytes(made.build())
    return path


def from_tokenizer_json(path: Path, source: Path, pre: str, **given: Any) -> Path:
    """The byte-level BPE of a tokenizer.json as a file."""
    data = json.loads(source.read_text())
    ids = dict(data["model"]["vocab"]) | {token["content"]: token["id"] for token in data["added_tokens"]}
    tokens = sorted(ids, key=lambda text: ids[text])
    kinds = {token["id"]: 3 if token["special"] else 4 for token in data["added_tokens"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in data["model"]["merges"]]
    types = [kinds.get(i, 1) for i in range(len(tokens))]
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    return vocabulary_file(path, "gpt2", tokens, pre=pre, merges=merges, token_type=types, **ends, **given)
