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
.PHONY: help build dev run test test-c test-deep check fuzz fuzz-pack bench asm sanitize clean
C_TESTS := $(notdir $(basename $(wildcard csrc/tests/test_*.c)))

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BUILT): $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check .
	@rm -f $(DEV); touch $@

$(DEV): $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]' -C cmake.define.LW_TEST_TABLES=ON -C cmake.define.LW_BUILD_TESTS=ON
	@touch $(BUILT) $@

build: $(BUILT)  ## compile and install into .venv, as a user would

dev: $(DEV)  ## the same for work: editable, with the test tables, peers and tools

run: build  ## a story from the built-in model, or make run ARGS="chat"
	$(BIN)/lanewise $(if $(ARGS),$(ARGS),generate --echo "Once upon a time")

test: dev  ## the whole suite but the deep tests: make test TESTS=tests/kernels
	$(BIN)/python -m pytest $(TESTS) -m "not deep" -n auto --maxprocesses 8 $(ARGS)

# That build lies in a folder named after Python's version and the platform. A test that is not there is a failure.
test-c: dev  ## the C tests on every table of the test build, emulated ones too
	for t in $(C_TESTS); do echo $$t; build/cp*/$$t || exit 1; done
	build/cp*/fuzz_pack -runs=20000

test-deep: dev test-c sanitize  ## every test, with the C tests under sanitizers
	$(BIN)/python -m pytest $(TESTS) $(ARGS)

check: dev  ## ruff, mypy, the rules of the house, the quick tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_house.py tests/test_import.py tests/engine -m "not deep" $(ARGS)

# The extra's packages alone: an editable installation of it would build the extension again.
$(FUZZ): pyproject.toml $(DEV)
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['fuzz'], sep='\n')" >$@
	$(BIN)/python -m pip install -q --disable-pip-version-check -r $@

# The C that reads a file, for libFuzzer where there is clang with its runtime, else with inputs drawn at random.
fuzz-pack:
	if echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' | clang -fsanitize=fuzzer,address -x c -o /dev/null - 2>/dev/null; then \
	    $(CMAKE) -S csrc -B build/libfuzzer -DCMAKE_C_COMPILER=clang -DLW_BUILD_TESTS=ON -DLW_ASSERT_ON=ON -DLW_TABLES=none \
	        -DLW_SANITIZE=address,undefined -DLW_FUZZER=ON && $(CMAKE) --build build/libfuzzer --parallel 2 --target fuzz_pack; \
	else $(SANITIZED) && $(CMAKE) --build build/asan --parallel 2 --target fuzz_pack; fi

fuzz: $(FUZZ) fuzz-pack  ## fuzz the readers, and the C that packs: make fuzz ARGS="gguf -runs=100000", or ARGS="--total 10000000"
	$(BIN)/python tests/fuzz/run.py $(ARGS)

bench: dev  ## measure this machine: make bench ARGS="--help"
	$(BIN)/lanewise bench $(ARGS)

asm: dev  ## show the hot loop of every tile as the compiler made it
	$(BIN)/python tools/asm.py $(ARGS)

# Of the tables, the widest that machines at hand have: the others are made of the same words.
# test_amx needs tile registers, which test-c emulates.
SANITIZED = $(CMAKE) -S csrc -B build/asan -DLW_BUILD_TESTS=ON -DLW_ASSERT_ON=ON -DLW_TABLES="avx512_vnni;avx512_bf16" -DLW_SANITIZE=address,undefined
sanitize:  ## the C tests under address, undefined and thread sanitizers
	$(SANITIZED)
	$(CMAKE) --build build/asan --parallel 2
	for t in $(filter-out test_amx,$(C_TESTS)); do build/asan/$$t || exit 1; done
	$(CMAKE) -S csrc -B build/tsan -DLW_BUILD_TESTS=ON -DLW_ASSERT_ON=ON -DLW_TABLES="avx512_vnni;avx512_bf16" -DLW_SANITIZE=thread
	$(CMAKE) --build build/tsan --parallel 2
	build/tsan/test_runtime pool && build/tsan/test_gemm

clean:  ## remove what was built
	rm -rf build dist $(VENV)
