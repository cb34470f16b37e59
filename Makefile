# The words a person types. Each first creates the virtual environment and installs what it needs, once.
#
#   make PYTHON=python3.12            another interpreter (3.11 or newer)
#   make EXTRAS=gpu,train,dev         other extras than the CPU ones

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= cpu,train,dev

BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed-$(EXTRAS)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format wheel clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

install: $(INSTALLED)  ## the virtual environment with dann, editable

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "dann needs Python 3.11 or newer, and $(PYTHON) is not; name another: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(INSTALLED)  ## render cars, train, export, infer; prints what adaptation gained (about 4 minutes on 2 cores)
	PATH="$(BIN):$$PATH" examples/demo.sh

test: $(INSTALLED)  ## the quick tests
	$(BIN)/python -m pytest -m "not slow"

test-all: $(INSTALLED)  ## every test (under 60 minutes on 2 cores)
	$(BIN)/python -m pytest

lint: $(INSTALLED) .typing/dann  ## ruff and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(INSTALLED)  ## what ruff can put right by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The folders at the root are `dann.*` only through an import hook, which static tools do not run: give them a
# directory of that name.
.typing/dann:
	@mkdir -p .typing
	@ln -sfn .. $@

wheel: $(INSTALLED)  ## dist/: the sdist, and the wheel built from it
	rm -rf build dist  # setuptools ships whatever an older build/ still holds
	$(BIN)/python -m build

clean:  ## everything made here but the virtual environment and runs/
	rm -rf build dist demo .typing *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
