# `make quickstart` shows the whole chain; `make test` runs every check. Both set up .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
GPTQ := .venv-gptq

.PHONY: quickstart test test-slow test-gptq lint format docs transcript clean

quickstart: $(READY)
	$(BIN)/ftreg quickstart

test: lint
	$(BIN)/pytest -m "not slow" -n auto --dist worksteal

test-slow: $(READY) test-gptq
	$(BIN)/pytest -m slow

test-gptq: $(GPTQ)/.ready
	$(GPTQ)/bin/python -m pytest tests/post/test_gptq.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The references in docs/ are written from the code; a test fails while one is out of date.
docs: $(READY)
	$(BIN)/python docs/generate.py

# Runs the quickstart and writes what it prints into docs/quickstart.md and the README.
transcript: $(READY)
	$(BIN)/python docs/transcript.py

# The stamp makes a second call install nothing; it is renewed when the dependencies change.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ftreg needs Python 3.11 or newer; choose one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group dev
	touch $@

# gptqmodel slows every adapter down where it is installed, so it has an environment of its own, on top of the other.
$(GPTQ)/.ready: $(READY)
	test -x $(GPTQ)/bin/python || $(PYTHON) -m venv $(GPTQ)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(GPTQ)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	sed 's/^numpy==.*/numpy==2.2.6/' constraints.txt > $(GPTQ)/constraints.txt  # gptqmodel's own pin
	$(GPTQ)/bin/python -m pip install --quiet --constraint $(GPTQ)/constraints.txt --editable ".[gptq]"
	touch $@

clean:
	rm -rf $(VENV) $(GPTQ) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
