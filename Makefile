# Two commands: each makes .venv and installs what is missing, then runs.
PYTHON ?= python3
# The versions with which the tests last passed; for the newest ones, `make clean`, then `make CONSTRAINTS= train`.
CONSTRAINTS ?= constraints.txt
PIP := .venv/bin/python -m pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
TOGETHER := --numprocesses logical --maxprocesses 4 --dist loadgroup

.PHONY: train test test-all coverage lint docs clean

train: .venv/installed
	.venv/bin/kindling fit --config configs/quickstart.yaml

# One thread per test process: with more threads than cores, torch spends its time waiting.
test test-all coverage: export OMP_NUM_THREADS = 1
# Compiled modules are kept: many tests start processes of their own.
test test-all coverage: export PYTHONDONTWRITEBYTECODE =
test: .venv/installed-dev
	.venv/bin/pytest -m "not alone and not slow" $(TOGETHER)
	.venv/bin/pytest -m "alone and not slow"

test-all: .venv/installed-dev
	.venv/bin/pytest -m "not alone" $(TOGETHER)
	.venv/bin/pytest -m alone

coverage: .venv/installed-dev
	.venv/bin/coverage run -m pytest -m "not alone" $(TOGETHER)
	.venv/bin/coverage combine --quiet
	.venv/bin/coverage report

lint: .venv/installed-dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/zizmor --offline --quiet --persona pedantic .

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml $(CONSTRAINTS) | .venv/bin/python
	@echo "installing into .venv: a minute or more, torch is large"
	$(PIP) --editable .
	.venv/bin/kindling schema
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]'
	touch $@
