# `make quickstart` shows the whole chain; `make test` runs every check. Both set up .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := .venv-extras

.PHONY: quickstart test test-slow test-extras lint format docs transcript clean

quickstart: $(READY)
	$(BIN)/ftreg quickstart

test: lint
	$(BIN)/pytest -m "not slow" -n auto --dist worksteal

test-slow: $(READY) test-extras
	$(BIN)/pytest -m slow

test-extras: $(EXTRAS)/.ready
	$(EXTRAS)/bin/python -m pytest tests/post/test_gptq.py tests/pipeline/test_lm_eval.py
	$(EXTRAS)/bin/python -m pytest tests/pipeline/test_replay.py -k "gptq or awq"

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

# gptqmodel and lm-eval slow every adapter or training down where they are installed, so they have an environment of
# their own, on top of the other.
$(EXTRAS)/.ready: $(READY)
	test -x $(EXTRAS)/bin/python || $(PYTHON) -m venv $(EXTRAS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > $$($(EXTRAS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	sed 's/^numpy==.*/numpy==2.2.6/' constraints.txt > $(EXTRAS)/constraints.txt  # gptqmodel's own pin
	$(EXTRAS)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(EXTRAS)/bin/python -m pip install --quiet --constraint $(EXTRAS)/constraints.txt --editable ".[gptq,bench]"
	touch $@

clean:
	rm -rf $(VENV) $(EXTRAS) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
