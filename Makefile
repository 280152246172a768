# `make` lists the targets. Everything is built into .venv and build/; `make clean` removes both.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CMAKE  ?= cmake
TESTS  ?= tests
ARGS   ?=
STAMP  := $(VENV)/.installed
SOURCES := pyproject.toml csrc/CMakeLists.txt $(wildcard csrc/*.[ch] csrc/*/*.[ch] pkg/lanewise/*.pyx pkg/lanewise/*.pxi)

.DEFAULT_GOAL := help
.PHONY: help venv build run test test-deep check bench asm sanitize clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

venv: $(BIN)/python  ## create the virtual environment

$(STAMP): $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $@

build: $(STAMP)  ## compile and install into .venv (editable: Python changes need no rebuild)

run: build  ## the command line: make run ARGS="--help"
	$(BIN)/lanewise $(ARGS)

test: build  ## the whole suite but the deep tests: make test TESTS=tests/kernels
	$(BIN)/python -m pytest $(TESTS) -m "not deep" $(ARGS)

test-deep: build sanitize  ## every test, with the C tests under sanitizers
	$(BIN)/python -m pytest $(TESTS) $(ARGS)

check: build  ## ruff, mypy, the rules of the house, the quick tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_house.py tests/runtime -m "not deep" $(ARGS)

bench: build  ## measure this machine: make bench ARGS="--help"
	$(BIN)/lanewise bench $(ARGS)

asm: build  ## show the hot loop of every tile as the compiler made it
	$(BIN)/python tools/asm.py $(ARGS)

sanitize:  ## the C tests under address, undefined and thread sanitizers
	$(CMAKE) -S csrc -B build/asan -DLW_BUILD_TESTS=ON -DLW_ASSERT_ON=ON -DLW_SANITIZE=address,undefined
	$(CMAKE) --build build/asan --parallel 2
	for t in build/asan/test_*; do if [ -x $$t ] && [ -f $$t ]; then $$t || exit 1; fi; done
	$(CMAKE) -S csrc -B build/tsan -DLW_BUILD_TESTS=ON -DLW_ASSERT_ON=ON -DLW_SANITIZE=thread
	$(CMAKE) --build build/tsan --parallel 2
	build/tsan/test_runtime pool && build/tsan/test_gemm

clean:  ## remove what was built
	rm -rf build dist $(VENV)
