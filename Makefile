# One environment in .venv, with the versions that the project is tested with (CONSTRAINTS= takes the newest).
PYTHON ?= python3
BIN := .venv/bin
CONSTRAINTS ?= --constraint constraints.txt
RUN_DEMO := $(BIN)/python -m dydiff fit --config configs/demo.yaml

.PHONY: help demo demo-base test test-d4rl faults bench bench-peers check docs install

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

install: .venv/installed  ## the environment in .venv

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable '.[dev]'
	touch $@

demo: install  ## TD3BC + DyDiff on the dataset that ships with the repository, models included
	$(RUN_DEMO)

demo-base: install  ## the same agent without synthetic data
	$(RUN_DEMO) --rollout null

test: install  ## the test suite, without the tests marked slow, on all cores
	$(BIN)/python -m pytest -n auto --dist worksteal

# The d4rl package cannot be imported with all that it asks for (mujoco_py), but without it its loaders can.
test-d4rl: install  ## the loader against the d4rl package itself, which is installed for it
	$(BIN)/python -m pip install --quiet --no-deps d4rl==1.1
	$(BIN)/python -m pip install --quiet --constraint constraints.txt gym==0.23.1 tqdm
	$(BIN)/python -m pytest -rs tests/data/test_d4rl_parity.py

faults: install  ## kill runs at random moments (FAULT_KILLS of them), and compare their end with that of an uninterrupted one
	$(BIN)/python tests/support/faults.py

bench: install  ## how fast, against what: writes benchmarks/results.csv; with d3rlpy where bench-peers was made before
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

bench-peers:  ## d3rlpy in an environment of its own
	$(PYTHON) -m venv .venv-d3rlpy
	.venv-d3rlpy/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-d3rlpy/bin/python -m pip install --quiet d3rlpy==2.8.1

check: install  ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: install  ## the documentation as a site, into build/site; a broken link is an error
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
