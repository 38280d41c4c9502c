# Conveniences; everything works without make. PYTHON chooses the interpreter that makes the environment.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: venv test test-all mutants lint demo
venv:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
test:
	$(BIN)/python -m pytest
test-all:
	$(BIN)/python -m pytest -m 'slow or not slow'
mutants:
	$(BIN)/python tools/mutants.py --jobs 2
lint:
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright
demo:
	$(BIN)/vdu demo
