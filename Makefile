# Every target makes its own environment; a second run starts at once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all bench lint docs clean

demo: .venv/ready
	$(BIN)/python examples/demo.py $(if $(DEMO_VIDEO),"$(DEMO_VIDEO)")

test: .venv/ready-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4

test-all: .venv/ready-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 -m "slow or not slow"

bench: .venv/ready-dev
	$(BIN)/python -m benchmarks

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/ready-docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site dist

# The installation is repeated when the dependencies change, and only then.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e ".[all]"
	touch $@

.venv/ready-dev: .venv/ready
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	touch $@

.venv/ready-docs: .venv/ready
	$(BIN)/pip install -q -c constraints.txt -e ".[docs]"
	touch $@
