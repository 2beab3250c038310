# Each target creates the environment and installs its packages; a stamp file records that this is done.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Some tests measure how fast a worker starts, which depends on compiled modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test slow compat proof coverage lint bench clean

demo: $(VENV)/examples.stamp  ## tune a neural network on handwritten digits and print the best configuration
	$(BIN)/python examples/digits.py

test: $(VENV)/dev.stamp  ## all tests that are not marked slow
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not timing"
	$(BIN)/python -m pytest -m "timing and not slow"

slow: $(VENV)/dev.stamp  ## the slow tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not timing"
	$(BIN)/python -m pytest -m "slow and timing"

# One file with real worker processes is enough: the other integration tests hardly depend on the version of Python.
COMPAT := tests/unit tests/contract tests/property tests/integration/test_process_executor.py

compat: $(VENV)/dev.stamp  ## the tests that another version of Python could break: make compat PYTHON=python3.13 VENV=.venv-3.13
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not timing" $(COMPAT)

proof: $(VENV)/dev.stamp  ## the long form of every reliability test, which takes hours
	$(BIN)/python -m pytest --long -m "slow" tests/fault tests/property
	$(BIN)/python benchmarks/orphans.py --count 500
	$(BIN)/python benchmarks/orphans.py --server --count 200

# Coverage slows Python down. Tests that measure time, cancel at each tick or start other programs run without it.
COVERED := tests/unit tests/property tests/contract tests/integration/test_run.py

coverage: $(VENV)/dev.stamp  ## the lines that these tests cover, worker processes included
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -q --timeout 180 -m "not timing and not slow" $(COVERED)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: $(VENV)/dev.stamp  ## style, types and the direction of imports
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

bench: $(VENV)/dev.stamp  ## every benchmark of speed, one after the other
	@set -e; for script in benchmarks/t*.py; do \
	  echo "== $$script"; $(BIN)/python "$$script"; \
	done

clean:  ## delete the environments and all generated files
	rm -rf .venv .venv-3.* .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/%.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@
