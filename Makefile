# Each target creates .venv and installs what it needs; a stamp file remembers that it is done.
PYTHON ?= python3
BIN := .venv/bin

# Compiled modules are part of how fast a worker starts, which some tests look at.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test slow proof coverage lint bench clean

demo: .venv/examples.stamp  ## tune a neural network on handwritten digits and print the best configuration
	$(BIN)/python examples/digits.py

test: .venv/dev.stamp  ## every test that is not marked slow
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not timing"
	$(BIN)/python -m pytest -m "timing and not slow"

slow: .venv/dev.stamp  ## the slow tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not timing"
	$(BIN)/python -m pytest -m "slow and timing"

proof: .venv/dev.stamp  ## the long form of every proof of reliability: hours
	$(BIN)/python -m pytest --long -m "slow" tests/fault tests/property
	$(BIN)/python benchmarks/orphans.py --count 500
	$(BIN)/python benchmarks/orphans.py --server --count 200

# Counting slows Python down, so what measures time, cancels at each tick or drives other programs runs without.
COVERED := tests/unit tests/property tests/contract tests/integration/test_run.py

coverage: .venv/dev.stamp  ## what these tests cover, worker processes included
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -q --timeout 180 -m "not timing and not slow" $(COVERED)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: .venv/dev.stamp  ## style, types and the direction of imports
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

bench: .venv/dev.stamp  ## every benchmark of speed, one after the other
	@set -e; for script in benchmarks/t*.py; do \
	  echo "== $$script"; $(BIN)/python "$$script"; \
	done

clean:  ## forget the environment and everything that was generated
	rm -rf .venv .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.venv/%.stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@
