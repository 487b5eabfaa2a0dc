# quickstart and test need nothing but Python 3.11 or later with venv: each sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
RUN_DIR ?= runs/quickstart
BIN := $(VENV)/bin

.PHONY: quickstart test lint mutation clean

quickstart: $(VENV)/.nas
	$(BIN)/nas quickstart --run-dir $(RUN_DIR)

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

mutation: $(VENV)/.dev  # an hour or two: do the tests notice faults?
	$(BIN)/python experiments/mutation.py

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

# torch first and pinned, or another package pulls a CUDA build
$(VENV)/.nas: $(VENV)/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install -qq --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install -qq --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.nas
	$(BIN)/pip install -qq --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
