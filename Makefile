# Two commands do everything on a fresh machine with Python 3.10 or newer: `make train` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# Test processes; torch runs single-threaded in each of them.
WORKERS ?= 2
# PYTHON:TORCH pairs of `make matrix`.
MATRIX ?= 3.10:2.14.1 3.11:2.14.1 3.12:2.14.1 3.13:2.14.1

BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONSTRAINTS := .ci/constraints.txt
WHEEL := build/wheel
# What a wheel could lack shows here: every module is imported, every example run, every cost compared, a model trained.
WHEEL_TESTS := tests/repo tests/cost tests/neuralde/test_train.py tests/tutorials
PYTEST := pytest -n $(WORKERS)

ifdef CI
export PIP_PROGRESS_BAR := off
export TQDM_DISABLE := 1
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help train test proofs matrix bench tutorials tables dev links lint format types wheel clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

train: $(READY) ## train the digits example, the main job
	$(BIN)/neuralde train digits --resume

test: $(READY) ## run the tests
	$(BIN)/$(PYTEST)

proofs: $(READY) ## run the long proofs (tests marked slow)
	$(BIN)/$(PYTEST) -m slow

matrix: ## run the tests on other versions of Python and torch, and record it
	.ci/matrix --workers $(WORKERS) $(MATRIX)

bench: $(READY) ## run the benchmarks
	$(BIN)/neuralde bench

tutorials: $(READY) ## run the notebooks in full, and keep their outputs
	$(BIN)/python tests/tutorials/test_tutorials.py

tables: links ## write the lists of methods from the classes
	$(BIN)/python tests/repo/test_method_tables.py

dev: links ## the environment with every tool, and the git hooks
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/pre-commit install; fi

lint: $(READY) ## check format and lint
	$(BIN)/ruff format --check
	$(BIN)/ruff check

format: $(READY) ## format, and fix what ruff can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

types: links ## check types in the three layers
	$(BIN)/mypy -p neuralde

# The environment is made once, and again when what it should contain changes. The links by which mypy and
# editors find all three layers come after the install, because links that exist during it would be folded into it.
$(READY): setup.py setup.cfg $(CONSTRAINTS)
	rm -f $@ neuralde/solvers neuralde/adjoints
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "neuralde needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) pip
	PIP_BUILD_CONSTRAINT=$(CONSTRAINTS) $(BIN)/python -m pip install -c $(CONSTRAINTS) -e '.[train,test,dev]'
	touch $@

links: $(READY)
	@ln -sfn ../solvers neuralde/solvers
	@ln -sfn ../adjoints neuralde/adjoints

# The tests are copied next to no source at all, so only the installed wheel can answer their imports.
wheel: $(READY) ## build sdist and wheel, install the wheel into a fresh environment and test it there
	rm -rf build dist *.egg-info
	PIP_CONSTRAINT=$(CONSTRAINTS) $(BIN)/python -m build
	mkdir -p $(WHEEL)/tree
	cp -R setup.cfg README.md CHANGELOG.md CITATION.cff tests $(wildcard tutorials) $(WHEEL)/tree
	$(PYTHON) -m venv $(WHEEL)/env
	$(WHEEL)/env/bin/python -m pip install --quiet -c $(CONSTRAINTS) pip
	$(WHEEL)/env/bin/python -m pip install -c $(CONSTRAINTS) "$$(echo dist/*.whl)[train,test]"
	cd $(WHEEL)/tree && ../env/bin/python -c \
		'import sys, neuralde; assert neuralde.__file__.startswith(sys.prefix), neuralde.__file__'
	cd $(WHEEL)/tree && ../env/bin/$(PYTEST) $(WHEEL_TESTS)

clean: ## remove the environment and everything that was built
	rm -f neuralde/solvers neuralde/adjoints
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
