# Two commands: `make repro` installs from the lock and runs the pipeline, `make test` installs and runs the tests.
# Everything installed lands in .venv (the project) and .tools (uv, which reads the lock).

UV_VERSION := 0.13.9
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
# Two processes, one kernel thread each; a file's tests stay together because they share what they prepared.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile
# Experiments that DVC runs in a copy must find the environment's own python first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install install-test repro test-fast test test-slow test-kills rehearsal lint clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

.tools/bin/uv:
	@python=$$(command -v python3 || true); \
	if [ -z "$$python" ]; then echo "Python 3 is not installed: apt-get install python3 python3-venv" >&2; exit 1; fi; \
	rm -rf .tools; \
	if ! "$$python" -m venv .tools >/dev/null 2>&1; then rm -rf .tools; \
	  echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; fi; \
	if ! .tools/bin/pip --quiet --disable-pip-version-check install "uv==$(UV_VERSION)"; then rm -rf .tools; \
	  echo "uv $(UV_VERSION) could not be installed into .tools (see pip's message above)" >&2; exit 1; fi

# uv finds Python 3.12 on PATH; pyenv's versions are shown to it; where neither has one, uv fetches it if the network allows.
define sync
	@for folder in "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.12*/bin; do \
	  if "$$folder/python3.12" -c "" 2>/dev/null; then export PATH="$$PATH:$$folder"; fi; done; \
	if ! .tools/bin/uv python find --quiet 3.12 >/dev/null 2>&1 && ! .tools/bin/uv python install --quiet 3.12 >/dev/null 2>&1; then \
	  echo "Python 3.12 is not installed and could not be fetched: apt-get install python3.12, or pyenv install 3.12" >&2; exit 1; fi; \
	if ! .tools/bin/uv sync --frozen --quiet --inexact $(1); then \
	  echo "The environment could not be installed from uv.lock (see the message above)" >&2; exit 1; fi
endef

install: .tools/bin/uv  ## install the project into .venv from uv.lock
	$(call sync,--extra simulation)

install-test: .tools/bin/uv
	$(call sync,--extra simulation --extra dask --group test)

repro: install  ## run the pipeline: from the dataset to CHECK A, CHECK B and reports/index.html
	$(BIN)/dvc repro

test-fast: install-test  ## run the tests between two edits: no DVC, no simulator, no further processes
	$(PYTEST) -m "not slow and not fullsize and not dvc and not simulator and not processes and not minutes" tests

test: install-test  ## run the tests (installs an off-screen GL library where it may)
	@bash tests/install_gl.sh
	$(PYTEST) -m "not slow and not fullsize" tests

test-slow: install-test  ## run the slow tests too
	$(call sync,--extra ray)
	@bash tests/install_gl.sh
	$(PYTEST) -m "not fullsize" tests

test-kills: install-test  ## kill runs at random times over all stages, restart them, compare the bytes; prints the kills by stage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s tests/pipeline/test_kills.py

rehearsal: install-test  ## build π0.5 at full size with random weights, decide, train a step, save, reload (16 GB free)
	$(BIN)/python -m pytest -q -s -m fullsize tests

lint: install-test  ## check style and types
	$(BIN)/ruff check sigma tests lerobot_policy_sigma.py
	$(BIN)/ruff format --check sigma tests lerobot_policy_sigma.py
	$(BIN)/python -m mypy

clean:  ## remove what the pipeline wrote, keep the cache
	rm -rf data models reports logs
