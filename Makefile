# One environment in .venv, with the versions that the project is tested with.
PYTHON ?= python3
BIN := .venv/bin
RUN_DEMO := $(BIN)/python -m dydiff fit --config configs/demo.yaml

.PHONY: demo demo-base test check install

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install  ## TD3BC + DyDiff on the dataset that ships with the repository, models included
	$(RUN_DEMO)

demo-base: install  ## the same agent without synthetic data
	$(RUN_DEMO) --rollout configs/rollout/base.yaml

test: install  ## the test suite, without the tests marked slow
	$(BIN)/python -m pytest

check: install  ## style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
