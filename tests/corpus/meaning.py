"""Cases of what a sound container says: the model, and its vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from corpus.make import (  # fmt: skip
    ARR,
    F32,
    I32,
    STR,
    TOKENS,
    U8,
    U32,
    U64,
    Case,
    Gguf,
    T,
    Tensor,
    array,
    changed,
    f32,
    having,
    layer,
    plain,
    text,
    u32,
    value,
)

REQUIRED = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
            "attention.layer_norm_rms_epsilon")  # fmt: skip


def cases() -> Iterator[tuple[str, Case]]:
    yield from _keys()
    yield from _shapes()
    yield from _vocabulary()
    yield from _bytes()
    yield from _pieces()


def _with(key: str, v: bytes | None) -> Gguf:
    return having(**{key.replace(".", "__"): v})


def _keys() -> Iterator[tuple[str, Case]]:
    key = "general.architecture"
    yield "M01 architecture unknown", Case(_with(key, value(STR, "mamba")).build, key)
    yield "M01 architecture a number", Case(_with(key, value(U32, 1)).build, key)
    yield "M02 no architecture", Case(_with(key, None).build, key)
    for name in REQUIRED:
        yield f"M02 no {name}", Case(_with(f"llama.{name}", None).build, f"llama.{name}")
        made = _with(f"llama.{name}", value(STR, "8"))
        yield f"M03 {name} a string", Case(made.build, f"llama.{name}")
    wrong: list[tuple[str, int, list[float]]] = [
        ("block_count", U32, [0, 513, 2**32 - 1]), ("attention.head_count", U32, [0, 3, 5, 2**32 - 1]),
        ("attention.head_count_kv", U32, [0, 3, 4, 2**31]), ("embedding_length", U32, [0, 2**22 + 1, 2**31]),
        ("rope.dimension_count", U32, [3, 8, 2, 0]), ("rope.freq_base", F32, [0.0, math.nan, -1.0, math.inf]),
        ("attention.layer_norm_rms_epsilon", F32, [math.nan, -1.0, math.inf, 2.0]),
        ("context_length", U32, [0, 2**31]), ("context_length", U64, [2**63]), ("vocab_size", U32, [0, 7, 9, 2**31]),
        ("feed_forward_length", U32, [0, 2**32 - 1]), ("expert_count", U32, [8, 2**31]),
        ("attention.key_length", U32, [0, 5, 2048]), ("attention.value_length", U32, [8]),
        ("logit_scale", F32, [0.5, math.nan]), ("rope.scaling.factor", F32, [-2.0, math.nan, math.inf]),
    ]  # fmt: skip
    for name, kind, numbers in wrong:
        for n in numbers:
            yield f"M04 {name} {n:g}", Case(_with(f"llama.{name}", value(kind, n)).build, f"llama.{name}")
    yield "M05 head_count per layer", Case(_with("llama.attention.head_count", value(ARR, array(U32, [2]))).build,
                                          "llama.attention.head_count")  # fmt: skip
    for kind in ("longrope", "no such"):
        yield f"M05 rope scaling {kind}", Case(_with("llama.rope.scaling.type", value(STR, kind)).build,
                                              "llama.rope.scaling.type")  # fmt: skip
    yield "M05 yarn without factor", Case(_with("llama.rope.scaling.type", value(STR, "yarn")).build,
                                         "llama.rope.scaling.factor")  # fmt: skip
    yield "M06 one of three parts", Case(_with("split.count", value(U32, 3)).build, "split.count")


def _shapes() -> Iterator[tuple[str, Case]]:
    for t in plain().tensors:
        assert isinstance(t.name, str)
        made = plain()
        made.tensors = [other for other in made.tensors if other.name != t.name]
        yield f"M10 no {t.name}", Case(made.build, t.name)
    transposed = {"blk.0.ffn_gate.weight": [12, 8], "blk.0.attn_k.weight": [4, 8], "blk.0.ffn_down.weight": [8, 12]}
    for name, dims in transposed.items():
        yield f"M11 transposed {name}", Case(changed(name, dims=dims).build, name)
    yield "M11 embedding of one dimension", Case(changed("token_embd.weight", dims=[64]).build, "llama.vocab_size")
    yield "M12 norm as a matrix", Case(changed("output_norm.weight", dims=[4, 2]).build, "output_norm.weight")
    made = _with("llama.block_count", value(U32, 2))
    yield "M13 a layer missing", Case(made.build, "blk.1.attn_norm.weight")
    made = plain()
    made.tensors += layer(1)
    yield "M14 a layer more", Case(made.build, "blk.1.attn_norm.weight")
    made = plain()
    made.tensors.append(f32("blk.0.attn_qkv.weight", 8, 16))
    yield "M14 a tensor more", Case(made.build, "blk.0.attn_qkv.weight")
    yield "M15 a matrix of I32", Case(changed("blk.0.attn_q.weight", kind=26).build, "blk.0.attn_q.weight")
    wide = having(llama__embedding_length=value(U32, 32), llama__rope__dimension_count=None)
    made = replace(wide, tensors=[
        f32("token_embd.weight", 32, 8), Tensor("output_norm.weight", [32], 2, 18), *_wide()])  # fmt: skip
    yield "M15 a norm of Q4_0", Case(made.build, "output_norm.weight")
    embed = Tensor("token_embd.weight", [32, 8], 9, 288)
    made = replace(made, tensors=[embed, f32("output_norm.weight", 32), *_wide()])
    yield "M15 a matrix of Q8_1", Case(made.build, "token_embd.weight")
    made = plain()
    made.tensors.append(f32("rope_freqs.weight", 3))
    yield "M16 rope factors of a wrong length", Case(made.build, "rope_freqs.weight")
    made = plain()
    made.tensors.append(f32("rope_freqs.weight", 2))
    yield "M16 rope factors below zero", Case(made.build, "rope_freqs.weight")


def _wide() -> list[Tensor]:
    """A layer for an embedding of 32 and two heads of 16."""
    shapes = {"attn_norm": (32,), "attn_q": (32, 32), "attn_k": (32, 16), "attn_v": (32, 16), "attn_output": (32, 32),
              "ffn_norm": (32,), "ffn_gate": (32, 12), "ffn_up": (32, 12), "ffn_down": (12, 32)}  # fmt: skip
    return [f32(f"blk.0.{name}.weight", *dims) for name, dims in shapes.items()]


def _tokens(tokens: list[str | bytes]) -> bytes:
    body = array(STR, [])[:4] + array(STR, [], len(tokens))[4:] + b"".join(text(t) for t in tokens)
    return value(ARR, body)


def _vocabulary() -> Iterator[tuple[str, Case]]:
    yield "V01 no tokens", Case(having(T_tokens=None).build, f"{T}tokens")
    yield "V01 tokens empty", Case(having(T_tokens=value(ARR, array(STR, []))).build, f"{T}tokens")
    yield "V01 seven tokens", Case(having(T_tokens=_tokens([*TOKENS[:7]]), T_scores=None, T_token_type=None).build,
                                   f"{T}tokens")  # fmt: skip
    yield "V02 tokens are numbers", Case(having(T_tokens=value(ARR, array(U32, [1] * 8))).build, f"{T}tokens")
    yield "V02 tokens a string", Case(having(T_tokens=value(STR, "abc")).build, f"{T}tokens")
    yield "V03 scores of UINT8", Case(having(T_scores=value(ARR, array(U8, [1] * 8))).build, f"{T}scores")
    yield "V03 scores too few", Case(having(T_scores=value(ARR, array(F32, [1] * 7))).build, f"{T}scores")
    signalling = u32(ARR) + array(U32, [0x7F800001] * 8).replace(u32(U32), u32(F32), 1)
    yield "V03 a score of signalling NaN", Case(having(T_scores=signalling).build, f"{T}scores")
    yield "V03 a score NaN", Case(having(T_scores=value(ARR, array(F32, [math.nan] * 8))).build, f"{T}scores")
    yield "V04 token_type too short", Case(having(T_token_type=value(ARR, array(I32, [1] * 7))).build, f"{T}token_type")
    yield "V04 token_type of UINT8", Case(having(T_token_type=value(ARR, array(U8, [1] * 8))).build, f"{T}token_type")
    yield "V05 tokenizer unknown", Case(having(T_model=value(STR, "rwkv")).build, f"{T}model")
    yield "V05 tokenizer a number", Case(having(T_model=value(U32, 1)).build, f"{T}model")
    yield "V05 no tokenizer", Case(having(T_model=value(STR, "none")).build, None, None)
    for name in ("eos", "bos", "unknown", "eot"):
        for n in (8, 2**32 - 1):
            made = having(**{f"T_{name}_token_id": value(U32, n)})
            yield f"V06 {name} {n}", Case(made.build, f"{T}{name}_token_id")
    yield "V06 eos -1", Case(having(T_eos_token_id=value(I32, -1)).build, f"{T}eos_token_id")
    yield "V06 padding 2^32-1 is none", Case(having(T_padding_token_id=value(U32, 2**32 - 1)).build, None, None)
    yield "V06 add_bos a number", Case(having(T_add_bos_token=value(U32, 1)).build, f"{T}add_bos_token")
    yield "V07 template a number", Case(having(tokenizer__chat_template=value(U32, 1)).build, "tokenizer.chat_template")


def _bytes() -> Iterator[tuple[str, Case]]:
    kinds = value(ARR, array(I32, [2, 3, 3, 1, 1, 1, 1, 6]))
    for spelled in ("<0x-1>", "<0xZZ>", "<0x1>", "<0x+1>", "0x41", "<0x411>"):
        made = having(T_tokens=_tokens([*TOKENS[:7], spelled]), T_token_type=kinds)
        yield f"V10 byte token {spelled}", Case(made.build, f"{T}tokens")
    yield "V11 a token twice", Case(having(T_tokens=_tokens([*TOKENS[:7], "a"])).build, f"{T}tokens")
    yield "V12 a token not UTF-8", Case(having(T_tokens=_tokens([*TOKENS[:7], b"\xff"])).build, f"{T}tokens")
    yield "V13 a token of 2 MiB", Case(having(T_tokens=_tokens([*TOKENS[:7], "x" * (2 << 20)])).build, f"{T}tokens")
    yield "V13 a token of 32 KiB", Case(having(T_tokens=_tokens([*TOKENS[:7], "x" * (32 << 10)])).build, f"{T}tokens")
    yield "V14 an empty token", Case(having(T_tokens=_tokens([*TOKENS[:7], ""])).build, None, None)


def _pieces() -> Iterator[tuple[str, Case]]:
    def bpe(merges: list[str] | None, pre: str = "gpt-2") -> Gguf:
        found = None if merges is None else value(ARR, array(STR, merges))
        return having(T_model=value(STR, "gpt2"), T_pre=value(STR, pre), T_merges=found, T_scores=None)

    yield "V20 sound", Case(bpe(["a b"]).build, None, None)
    for name, merges in {"no token": ["a c"], "sum no token": ["b a"], "no space": ["ab"], "three parts": ["a b b"],
                         "empty": [""], "a space": [" "], "no left": [" b"]}.items():  # fmt: skip
        yield f"V21 merge, {name}", Case(bpe(merges).build, f"{T}merges")
    yield "V22 no merges", Case(bpe(None).build, f"{T}merges")
    yield "V23 pre-tokenizer unknown", Case(bpe(["a b"], "my-own").build, f"{T}pre")
    made = having(T_model=value(STR, "gpt2"), T_pre=value(STR, "llama-bpe"), T_merges=value(ARR, array(STR, [])),
                  T_bos_token_id=None)  # fmt: skip
    yield "V24 bos to be added, but none", Case(made.build, f"{T}bos_token_id")
    t5 = {"T_model": value(STR, "t5")}
    yield "V25 unigram, sound", Case(having(**t5).build, None, None)
    for name, blob in {"short": b"abc", "size 2^32-1": b"\xff" * 8, "size not of units": b"\5\0\0\0" + b"a" * 9 + b"\0",
                       "no end": b"\4\0\0\0" + bytes(4) + b"a", "walks out": b"\4\0\0\0" + b"\0\xff\xff\x7f" + b"\0",
                       "not UTF-8": b"\4\0\0\0" + bytes(4) + b"\xff\0"}.items():  # fmt: skip
        made = having(**t5, T_precompiled_charsmap=value(ARR, array(U8, list(blob))))
        yield f"V26 charsmap, {name}", Case(made.build, f"{T}precompiled_charsmap")
    yield "V27 two pieces alike", Case(having(T_model=value(STR, "bert"), T_unknown_token_id=value(U32, 0),
        T_seperator_token_id=value(U32, 2), T_tokens=_tokens([*TOKENS[:7], "▁##b"])).build, f"{T}tokens")  # fmt: skip
