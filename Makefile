# Everything from one command: each target makes its own environment in .venv first, and again only when pyproject.toml or the lock change.
# Needs Python 3.11 or newer and make. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help book test test-slurm test-colab test-lowest bench gpu-check rerun sweep serve clean clear lint lock setup

PROFILE ?= mini
PORT ?= 8000
MODEL ?= mini
# the first Python that is new enough; `make PYTHON=/path/to/python3.12 book` chooses another
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done)
# for test-colab; uv fetches it where there is none: make test-colab COLAB_PYTHON=/path/to/python3.13
COLAB_PYTHON ?= 3.13
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
TESTS ?=
JOBS ?= 2

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20
	@echo "  options:      PROFILE=mini (book, rerun)   ONLY='methods pareto' (rerun, sweep)   PORT=8000 (serve)   TESTS=tests/test_x.py JOBS=2 (test)   PYTHON=python3.12"

book: $(STAMP)  ## run the notebooks that are not up to date and build the HTML; prints its path
	@$(PY) -m earlib book --profile $(PROFILE)

test: $(STAMP)  ## the tests, the notebooks with small parameters among them
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal $(TESTS)

test-slurm: $(STAMP)  ## sweeps and notebooks through a real Slurm of one node, killed on the way
	@OMP_NUM_THREADS=1 $(PY) -m tests.one_node_slurm $(LIMIT)

test-colab: .venv-colab/.ready  ## the tests with the versions of Colab's image (tests/colab.txt), in .venv-colab
	@OMP_NUM_THREADS=1 .venv-colab/bin/python -m pytest -n $(JOBS) --dist worksteal $(TESTS)

test-lowest: .venv-lowest/.ready  ## the tests with the oldest versions that pyproject.toml allows, in .venv-lowest
	@OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n $(JOBS) --dist worksteal $(TESTS)

bench: $(STAMP)  ## seconds against rivals and a floor: make bench MODEL=janus-pro-7b-shape
	@$(PY) -m benchmarks --model $(MODEL)

gpu-check: $(STAMP)  ## on a machine with a GPU, 10 minutes: its tests, seconds, memory, in one file to send back
	@$(PY) -m benchmarks.gpu_check

rerun: $(STAMP)  ## only run the notebooks: make rerun PROFILE=janus-pro-1b
	@$(PY) -m earlib rerun --profile $(PROFILE) $(addprefix --only ,$(ONLY))

sweep: $(STAMP)  ## measure what the tables in data/sweeps lack (hours): make sweep ONLY='window bars'
	@$(PY) -m earlib sweep $(ONLY) --jobs $(JOBS)

serve: $(STAMP)  ## show the built book on this machine
	@test -f _build/html/index.html || { echo "there is no book yet: make book" >&2; exit 2; }
	@echo "http://127.0.0.1:$(PORT)  (stop with Ctrl-C)"
	@$(PY) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

clear: $(STAMP)  ## take the outputs out of the notebooks, before a commit
	@$(PY) -c 'from earlib.book.build import clear; clear()'

lint: $(STAMP)  ## ruff over the library, the tests and the notebooks, mypy over the core, the panels and the book
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check .
	@$(VENV)/bin/mypy --no-error-summary

clean:  ## remove what was built (_build); runs/ and .venv stay
	@rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis

lock: $(STAMP)  ## write requirements.lock from what is installed
	@{ grep '^#' requirements.lock; $(VENV)/bin/uv pip freeze -p $(PY) | grep -Ev '^(pip|wheel|uv)=='; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

setup: $(STAMP)  ## only the environment

# The lock holds constraints, so the same line serves every platform. It is for the Pythons it was made for; a newer one takes the lower bounds.
$(STAMP): pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "this needs Python 3.11 or newer, and found none: install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1): this needs Python 3.11 or newer" >&2; exit 2; }
	@echo "setting up $(VENV) with $$("$(PYTHON)" --version) ..."
	@$(PY) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check uv
	@lock=$$($(PY) -c 'import sys; print("--constraint requirements.lock" if sys.version_info < (3, 14) else "")'); \
		$(VENV)/bin/uv pip install --quiet --python $(PY) -r pyproject.toml --all-extras $$lock
	@touch $@

.venv-colab/.ready: $(STAMP) tests/colab.txt
	@echo "setting up .venv-colab with Python $(COLAB_PYTHON) ..."
	@$(VENV)/bin/uv venv --quiet --clear --seed --python $(COLAB_PYTHON) .venv-colab
	@$(VENV)/bin/uv pip install --quiet --python .venv-colab -r pyproject.toml --all-extras --constraint tests/colab.txt
	@touch $@

.venv-lowest/.ready: $(STAMP)
	@echo "setting up .venv-lowest with $$($(PY) --version) ..."
	@$(VENV)/bin/uv venv --quiet --clear --seed --python $(PY) .venv-lowest
	@$(VENV)/bin/uv pip install --quiet --python .venv-lowest -r pyproject.toml --all-extras --resolution lowest-direct
	@touch $@
