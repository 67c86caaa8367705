# make demo: from a bare clone to a result. make test: what CI runs. make bench: what got slower. Needs Python 3.11 or newer and the package registry.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint bench clean

demo: .venv/installed
	$(BIN)/python train.py recipe=quickstart
	$(BIN)/python linear_eval.py run="$$(ls -td runs/moco-small-digits-*/result.json | head -1 | xargs dirname)" probe=cached
	$(BIN)/python -m moco table

test: lint
	$(BIN)/python -m pytest --durations=15

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: .venv/installed-dev
	$(BIN)/python benchmarks/compare.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python setup.cfg
	$(BIN)/pip install --quiet -e .
	touch $@

.venv/installed-dev: .venv/bin/python setup.cfg
	$(BIN)/pip install --quiet -e .[dev]
	touch $@ .venv/installed

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache *.egg-info
