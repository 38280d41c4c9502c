# Conveniences; everything works without make. PYTHON chooses the interpreter that makes the environment.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: venv test lint demo
venv:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
test:
	$(BIN)/python -m pytest
lint:
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright
demo:
	$(BIN)/vdu demo
