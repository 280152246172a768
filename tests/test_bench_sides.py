"""Sides of bench/compare.py that are not there everywhere: what they ask of a library that writes it down."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.append(str(BENCH))  # last: the folders of the tests have names that are there, too

import compare_files  # noqa: E402
import make_model  # noqa: E402
import sides  # noqa: E402
import sides_ctranslate2  # noqa: E402
import sides_ik_llama  # noqa: E402
from sides import Case  # noqa: E402
from sides_ctranslate2 import CTranslate2  # noqa: E402


def test_who_loads_what(tmp_path: Path) -> None:
    file, how = Path("some.gguf"), {"isa": None}
    args = types.SimpleNamespace(ik_library=None, ik_llama=tmp_path, openvino=[], ctranslate2=[])
    field: Any = types.SimpleNamespace(file=file, how=how, args=args)
    assert compare_files.Field.sides(field) == {"lanewise": (file, how), "llama.cpp": (file, how)}
    args.ik_library, args.openvino, args.ctranslate2 = Path("ik.so"), [Path("ov-int4")], [Path("a/ct2-int8")]
    assert list(compare_files.Field.sides(field).items())[2:] == [
        ("ik_llama.cpp", (file, {"library": Path("ik.so"), "version": "?"})),
        ("OpenVINO int4", (Path("ov-int4"), how)),
        ("CTranslate2 int8", (Path("a/ct2-int8"), how)),
    ]


def test_the_best_variant_goes_on() -> None:
    """The better of two turns counts: the first one may have been disturbed."""
    answers = {"a": [9.0, 2.0], "b": [3.0, 4.0]}
    asked: list[tuple[Any, ...]] = []

    def ask(*question: Any) -> float | None:
        asked.append(question)
        return answers[question[2]].pop(0) if question[0] == "turn" else None

    field: Any = types.SimpleNamespace(workers={"x": types.SimpleNamespace(ask=ask)}, facts={"x": {"variants": "ab"}})
    case = Case("decode", 6)
    assert compare_files.Field.variants(field, case) == ({"x": "a"}, {"x a": 3.0, "x b": 2.0})
    assert [(question[0], question[2]) for question in asked] == [
        ("turn", "a"), ("turn", "b"), ("turn", "a"), ("turn", "b"), ("drop", "b")
    ]  # fmt: skip


# ---- ik_llama.cpp ----

HEADER = """
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ggml.h"
typedef int32_t llama_token, llama_pos, llama_seq_id;
struct llama_model_params { char before[%d]; int32_t n_gpu_layers; bool use_mmap, repack_tensors; };
struct llama_context_params { char before[%d]; bool flash_attn; enum ggml_type type_k, type_v;
    uint32_t n_ctx, n_batch, n_ubatch, n_seq_max, n_threads, n_threads_batch; };
struct llama_batch { int32_t n_tokens; llama_token *token; float *embd; llama_pos *pos; int32_t *n_seq_id;
    llama_seq_id **seq_id; int8_t *logits; };
struct llama_model_params llama_model_default_params(void);
struct llama_context_params llama_context_default_params(void);
void llama_log_set(void (*log)(enum ggml_log_level, const char *, void *), void *data);
void llama_backend_init(void);
struct llama_model *llama_model_load_from_file(const char *file, struct llama_model_params params);
struct llama_context *llama_init_from_model(struct llama_model *model, struct llama_context_params params);
int32_t llama_decode(struct llama_context *context, struct llama_batch batch);
void llama_synchronize(struct llama_context *context);
"""
# Every call is a line of standard error: its name, then numbers.
SOURCE = """
#include "llama.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
struct llama_model { int repacked; };
struct llama_context { struct llama_context_params params; };
struct llama_model_params llama_model_default_params(void) {
    struct llama_model_params p;
    memset(&p, 0, sizeof p);
    p.n_gpu_layers = -1, p.use_mmap = true;
    return p;
}
struct llama_context_params llama_context_default_params(void) {
    struct llama_context_params p;
    memset(&p, 0, sizeof p);
    return p;
}
void llama_log_set(void (*log)(enum ggml_log_level, const char *, void *), void *data) {}
void llama_backend_init(void) {}
void llama_synchronize(struct llama_context *context) {}
struct llama_model *llama_model_load_from_file(const char *file, struct llama_model_params params) {
    printf("on standard output\\n");
    if (strstr(file, "absent")) return NULL;
    struct llama_model *model = malloc(sizeof *model);
    model->repacked = params.repack_tensors;
    fprintf(stderr, "load %d %d %d\\n", params.n_gpu_layers, params.use_mmap, params.repack_tensors);
    return model;
}
struct llama_context *llama_init_from_model(struct llama_model *model, struct llama_context_params params) {
    struct llama_context *context = malloc(sizeof *context);
    context->params = params;
    fprintf(stderr, "context %d %d %d%d %u %u %u %u %u %u\\n", model->repacked, params.flash_attn, params.type_k,
            params.type_v, params.n_ctx,
            params.n_seq_max, params.n_batch, params.n_ubatch, params.n_threads, params.n_threads_batch);
    return context;
}
void llama_free(struct llama_context *context) { fprintf(stderr, "free\\n"); free(context); }
int32_t llama_n_vocab(const struct llama_model *model) { return 100; }
const char *llama_print_system_info(void) { return "AVX = 1 | AMX = 0 | VNNI = 1 |"; }
float *llama_get_logits_ith(struct llama_context *context, int32_t i) {
    static float logits[100];
    fprintf(stderr, "logits %d\\n", i);
    return logits;
}
int32_t llama_decode(struct llama_context *context, struct llama_batch batch) {
    fprintf(stderr, "decode");
    for (int i = 0; i < batch.n_tokens; i++)
        fprintf(stderr, " %d:%d:%d:%d:%d", batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0],
                batch.logits[i]);
    fprintf(stderr, "\\n");
    return batch.n_tokens == 13;
}
void llama_kv_cache_clear(struct llama_context *context) { fprintf(stderr, "clear\\n"); }
bool llama_kv_cache_seq_rm(struct llama_context *context, int32_t sequence, int32_t from, int32_t to) {
    fprintf(stderr, "remove %d %d %d\\n", sequence, from, to);
    return true;
}
void llama_kv_cache_seq_cp(struct llama_context *context, int32_t from, int32_t to, int32_t first, int32_t last) {
    fprintf(stderr, "copy %d %d %d %d\\n", from, to, first, last);
}
"""
compiler = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


def checkout(where: Path, before: int = 8) -> Path:
    """What `build` wants to see, the library in it one that writes down how it is called."""
    for folder, name, text in (
        ("include", "llama.h", HEADER % (before, 2 * before)),
        (
            "ggml/include",
            "ggml.h",
            "#pragma once\nenum ggml_log_level { GGML_LOG_LEVEL_INFO };\nenum ggml_type { GGML_TYPE_Q8_0 = 8 };\n",
        ),
        ("", "llama.c", SOURCE),
        ("", "ggml.c", "int ggml_nothing;\n"),
    ):
        (where / folder).mkdir(parents=True, exist_ok=True)
        (where / folder / name).write_text(text)
    for name in ("llama", "ggml"):
        (where / "build" / name).mkdir(parents=True, exist_ok=True)
        library = where / "build" / name / f"lib{name}.so"
        command = ["cc", "-shared", "-fPIC", "-o", library, where / f"{name}.c", f"-I{where / 'include'}"]
        subprocess.run([*command, f"-I{where / 'ggml/include'}"], check=True)
    return where


RUN = """
import json, sys
sys.path.append(sys.argv[1])
import sides
from pathlib import Path
side = sides.make("ik_llama.cpp", Path(sys.argv[3]), 3, {"library": Path(sys.argv[2]), "version": "1"})
sys.stderr.write("hello " + json.dumps(side.hello()) + "\\n")
for case, variant in ((sides.Case("prefill", 3), "repacked"), (sides.Case("decode", 2, 2, 2), sys.argv[4])):
    for turn in range(2):
        sys.stderr.write("turn\\n")
        assert side.turn(case, variant) > 0
    side.drop(case, variant)
"""


@compiler
@pytest.mark.parametrize("before", [8, 24])
def test_ik_llama_is_called_by_its_own_header(tmp_path: Path, before: int) -> None:
    """Wherever the members of its structures lie, they hold what was meant."""
    best = "repacked, flash attention, q8_0 keys and values"
    library = sides_ik_llama.build(checkout(tmp_path, before), tmp_path)
    command = [sys.executable, "-c", RUN, str(BENCH), str(library), "some.gguf", best]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""  # its own, too, goes elsewhere
    ids = sides.ids_of(100, 1 << 16).tolist()
    lines = [line for line in done.stderr.splitlines() if line != "on standard output"]
    assert json.loads(lines[1].partition(" ")[2]) == {
        "version": "1",
        "features": ["AVX", "VNNI"],
        "variants": ["", "flash attention", "repacked", "repacked, flash attention", best],
    }  # fmt: skip
    prompt = f"decode {ids[0]}:0:1:0:0 {ids[1]}:1:1:0:0 {ids[2]}:2:1:0:1"
    steps = [f"decode {ids[2 * at]}:{at}:1:0:1 {ids[2 * at + 1]}:{at}:1:1:1" for at in (2, 3)]
    expected = [
        "load 0 1 0", lines[1],
        "turn", "load 0 1 1", "context 1 0 00 256 1 512 512 3 3", "remove 0 0 -1", prompt, "logits 2",
        "turn", "remove 0 0 -1", prompt, "logits 2", "free",
        "turn", "context 1 1 88 512 2 512 512 3 3", f"decode {ids[0]}:0:1:0:0 {ids[1]}:1:1:0:1", "logits 1",
        "copy 0 1 -1 -1", "remove 0 2 -1", "remove 1 2 -1", steps[0], "logits 1", steps[1], "logits 1",
        "turn", "remove 0 2 -1", "remove 1 2 -1", steps[0], "logits 1", steps[1], "logits 1", "free",
    ]  # fmt: skip
    assert lines == expected


@compiler
def test_ik_llama_that_does_not_work(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    api = sides_ik_llama.bind(sides_ik_llama.build(checkout(tmp_path), tmp_path))
    assert api.ik_load(b"absent", 0) is None
    context = api.ik_context(api.ik_load(b"some", 0), 512, 1, 1, 0, 0)
    for n, status in ((0, -1), (12, 0), (13, 1), (513, -1)):
        zeros = np.zeros(513, np.int32)
        assert api.ik_decode(context, n, zeros, zeros, zeros, np.zeros(513, np.int8)) == status
    assert capfd.readouterr().err.count("decode") == 2


@compiler
def test_ik_llama_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no include/llama\.h; expected a checkout"):
        sides_ik_llama.build(tmp_path, tmp_path)
    folder = checkout(tmp_path / "ik")
    header = folder / "include" / "llama.h"
    good = header.read_text()
    header.write_text(good.replace("n_ubatch", "n_something"))
    with pytest.raises(ValueError, match=r"ik_llama\.c does not fit this version of it\n(.|\n)*n_ubatch"):
        sides_ik_llama.build(folder, tmp_path)
    header.write_text(good.replace("repack_tensors", "other"))
    with pytest.raises(ValueError, match="is not that of ik_llama"):
        sides_ik_llama.build(folder, tmp_path)
    header.write_text(good)
    shutil.copytree(folder / "build", folder / "build2")
    with pytest.raises(ValueError, match=r"2 files libllama\.so, expected one"):
        sides_ik_llama.build(folder, tmp_path)
    done = subprocess.run(
        [sys.executable, str(BENCH / "compare.py"), "some.gguf", "--ik-llama", str(folder)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("--ik-llama: ")
    assert "expected one" in done.stderr


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_ik_llama_is_known_by_its_commit(tmp_path: Path) -> None:
    assert sides_ik_llama.version(tmp_path) == "?"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert sides_ik_llama.version(tmp_path) == "?"
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    assert re.fullmatch("[0-9a-f]{12}", sides_ik_llama.version(tmp_path))


# ---- CTranslate2 ----


class Generator:
    """By its own clock takes 10 s for the prompt and 2 s for each step after it."""

    compute_type = "int8_float32"
    clock = 0.0
    made: dict[str, Any]
    calls: list[dict[str, Any]]

    def __init__(self, folder: str, **options: Any) -> None:
        type(self).made, type(self).calls = {"folder": folder} | options, []

    def generate_batch(self, prompts: list[list[str]], callback: Callable[[Any], bool] | None, **how: Any) -> None:
        self.calls.append({"prompts": prompts} | how)
        for step in range(how["max_length"]):
            Generator.clock += 2.0 if step else 10.0
            for _ in prompts:
                assert callback is None or callback(types.SimpleNamespace(step=step)) is False


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake = types.SimpleNamespace(__version__="4", Generator=Generator)
    monkeypatch.setitem(sys.modules, "ctranslate2", fake)
    monkeypatch.setattr(sides_ctranslate2, "time", types.SimpleNamespace(perf_counter=lambda: Generator.clock))
    (tmp_path / "vocabulary.json").write_text(json.dumps([f"t{i}" for i in range(100)]))
    return tmp_path


def test_ctranslate2_is_timed_without_its_prompt(folder: Path) -> None:
    side = sides.make("CTranslate2 int8", folder, 3, {})
    assert side.hello() == {"version": "4", "compute_type": "int8_float32", "variants": ("",)}
    assert Generator.made == {
        "folder": str(folder), "device": "cpu", "compute_type": "auto", "inter_threads": 1, "intra_threads": 3
    }  # fmt: skip
    tokens = [f"t{i}" for i in sides.ids_of(100, 1 << 16)]
    assert side.turn(Case("prefill", 4)) == 10.0
    assert side.turn(Case("decode", 5)) == 10.0
    assert side.turn(Case("decode", 3, 4, 2)) == 6.0
    common = {"include_prompt_in_result": False}
    assert Generator.calls == [
        common | {"prompts": [tokens[:4]], "max_length": 1, "min_length": 1, "static_prompt": None},
        common | {"prompts": [tokens[:1]], "max_length": 6, "min_length": 6, "static_prompt": None},
        common | {"prompts": [tokens[3:4], tokens[4:5]], "max_length": 4, "min_length": 4, "static_prompt": tokens[:3]},
    ]


def test_ctranslate2_that_stops_is_no_figure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = CTranslate2(folder, 1, {})
    short = Generator.generate_batch
    monkeypatch.setattr(Generator, "generate_batch", lambda self, p, **how: short(self, p, **how | {"max_length": 2}))
    with pytest.raises(ValueError, match="gave 2 tokens, not 1 times 6"):
        side.turn(Case("decode", 5))


def test_ctranslate2_without_a_list_of_tokens(folder: Path) -> None:
    (folder / "vocabulary.json").write_text('{"source": []}')
    with pytest.raises(ValueError, match=r"vocabulary\.json: expected a list"):
        CTranslate2(folder, 1, {})


def test_ctranslate2_itself(tmp_path: Path) -> None:
    """A converted model, where the library is there."""
    pytest.importorskip("ctranslate2")
    from ctranslate2.converters import TransformersConverter
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    source, converted = tmp_path / "tiny", tmp_path / "ct2-tiny-int8"
    make_model.write_model(source, make_model.SHAPES["tiny"] | {"num_hidden_layers": 1}, "float32")
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(source)
    TransformersConverter(str(source)).convert(str(converted), quantization="int8")
    side = CTranslate2(converted, 1, {})
    for case in (Case("prefill", 20), Case("decode", 3), Case("decode", 3, 70), Case("decode", 3, 8, 2)):
        assert side.turn(case) > 0
        assert side.turn(case) > 0
    assert side.first_token(converted, 1, {}, 16)["seconds"] > 0
