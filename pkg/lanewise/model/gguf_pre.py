"""How texts are cut into words before byte-pair merging: the patterns behind the names in `tokenizer.ggml.pre`.

A GGUF file holds no pattern, only a name (given by llama.cpp's converter, convert_hf_to_gguf_update.py); the patterns
are those of src/llama-vocab.cpp, in the spelling of Oniguruma. They are applied one after another, each cutting the
pieces that the one before left into its matches and what lies between.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pre:
    """ignore_merges: a word that is a token is that token, merges or not. bos: the default of add_bos_token."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    bos: bool = False


_SHORT = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHER = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LLAMA3 = rf"{_SHORT}|{_WORD}|\p{{N}}{{1,3}}|{_OTHER}|{_TAIL}"
_QWEN2 = rf"{_SHORT}|{_WORD}|\p{{N}}|{_OTHER}|{_TAIL}"
_MARKED = r"[\p{L}\p{M}]+"
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + _TAIL
)
_CAMEL = (  # words that begin with capitals or end in small letters
    r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+%s"
    r"|[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*%s"
    r"|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _TAIL
)
_CASED = (  # the letters of deepseek-llm that have a case
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼ"
    "ℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)

_default = Pre((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))
_gpt2 = Pre((_GPT2,))
_digits = Pre((r"\p{N}", _GPT2))
_llama3 = Pre((_LLAMA3,))
_llama3_bos = Pre((_LLAMA3,), ignore_merges=True, bos=True)
_qwen2 = Pre((_QWEN2,))
_deepseek3 = Pre((r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3))
_bloom = Pre((r" ?[^(\s|.,!?…。，、।۔،)]+",))
_gpt4o = Pre((_CAMEL % (f"{_SHORT}?", f"{_SHORT}?", "{1,3}"),))

_FAMILIES: dict[str, Pre] = {
    "default": _default,
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": _llama3_bos,
    "dbrx smaug-bpe glm4 chatglm-bpe": _llama3,
    "qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 hunyuan solar-open megrez grok-2": _qwen2,
    "qwen35": Pre((rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?{_MARKED}|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_TAIL}",)),
    "deepseek-llm": Pre(
        ("[\r\n]", rf"\s?[{_CASED}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+", r"\p{N}+")
    ),
    "deepseek-coder": Pre(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    "deepseek-v3 hunyuan-dense joyai-llm": _deepseek3,
    "falcon": Pre((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2": _digits,
    "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert mpt olmo jais exaone4"
    " trillion granite-docling jina-v1-en jina-v2-code roberta-bpe": _gpt2,
    "poro-chat bloom gpt3-finnish": _bloom,
    "viking": Pre((*_bloom.patterns, r"\p{N}")),
    "tekken": Pre((_CAMEL % ("", "", ""),), ignore_merges=True, bos=True),
    "gpt-4o llama4 kanana2 talkie minimax-m2": _gpt4o,
    "bailingmoe bailingmoe2 llada-moe": Pre(
        (rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_WORD}|\p{{N}}|{_OTHER}|\s*[\r\n]|\s+(?!\S)|\s+",)
    ),
    "seed-coder": Pre((rf"{_SHORT}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_TAIL}",)),
    "superbpe": Pre((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "minicpm5": Pre((r"\p{N}{1,3}", rf"{_SHORT}|{_WORD}|\p{{N}}+|{_OTHER}|{_TAIL}"), ignore_merges=True),
}
PRE: dict[str, Pre] = {name: pre for names, pre in _FAMILIES.items() for name in names.split()}
