# `make` lists the targets. Everything is built into .venv and build/; `make clean` removes both.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CMAKE  ?= $(if $(wildcard $(BIN)/cmake),$(BIN)/cmake,cmake)
TESTS  ?= tests
ARGS   ?=
BUILT  := $(VENV)/.built
DEV    := $(VENV)/.dev
FUZZ   := $(VENV)/.fuzz
# One release by name: whatever else asks for torch is then content with it.
TORCH  ?= torch==2.13.0
SOURCES := pyproject.toml csrc/CMakeLists.txt $(wildcard csrc/*.[ch] csrc/*/*.[ch] pkg/lanewise/*.pyx pkg/lanewise/*.pxi)

.DEFAULT_GOAL := help
.PHONY: help build dev run test test-deep check fuzz bench asm sanitize clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BUILT): $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check .
	@rm -f $(DEV); touch $@

$(DEV): $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]' -C cmake.define.LW_TEST_TABLES=ON
	@touch $(BUILT) $@

build: $(BUILT)  ## compile and install into .venv, as a user would

dev: $(DEV)  ## the same for work: editable, with the test tables, peers and tools

run: build  ## a story from the built-in model, or make run ARGS="chat"
	$(BIN)/lanewise $(if $(ARGS),$(ARGS),generate --echo "Once upon a time")

test: dev  ## the whole suite but the deep tests: make test TESTS=tests/kernels
	$(BIN)/python -m pytest $(TESTS) -m "not deep" -n auto --maxprocesses 8 $(ARGS)

test-deep: dev sanitize  ## every test, with the C tests under sanitizers
	$(BIN)/python -m pytest $(TESTS) $(ARGS)

check: dev  ## ruff, mypy, the rules of the house, the quick tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_house.py tests/test_import.py tests/engine -m "not deep" $(ARGS)

# The extra's packages alone: an editable installation of it would build the extension again.
$(FUZZ): pyproject.toml $(DEV)
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['fuzz'], sep='\n')" >$@
	$(BIN)/python -m pip install -q --disable-pip-version-check -r $@

fuzz: $(FUZZ)  ## fuzz the readers: make fuzz ARGS="gguf -runs=100000", or ARGS="--total 10000000"
	$(BIN)/python tests/fuzz/run.py $(ARGS)

bench: dev  ## measure this machine: make bench ARGS="--help"
	$(BIN)/lanewise bench $(ARGS)

asm: dev  ## show the hot loop of every tile as the compiler made it
	$(BIN)/python tools/asm.py $(ARGS)

# Of the tables, the widest that machines at hand have: the others are made of the same words.
sanitize:  ## the C tests under address, undefined and thread sanitizers
	$(CMAKE) -S csrc -B build/asan -DLW_BUILD_TESTS=ON -DLW_ASSERT_ON=ON -DLW_TABLES="avx512_vnni;avx512_bf16" -DLW_SANITIZE=address,undefined
	$(CMAKE) --build build/asan --parallel 2
	for t in build/asan/test_*; do if [ -x $$t ] && [ -f $$t ]; then $$t || exit 1; fi; done
	$(CMAKE) -S csrc -B build/tsan -DLW_BUILD_TESTS=ON -DLW_ASSERT_ON=ON -DLW_TABLES="avx512_vnni;avx512_bf16" -DLW_SANITIZE=thread
	$(CMAKE) --build build/tsan --parallel 2
	build/tsan/test_runtime pool && build/tsan/test_gemm

clean:  ## remove what was built
	rm -rf build dist $(VENV)
