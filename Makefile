# What people do with a checkout; `make help` lists it. Needs Python 3.11 or later, git and make.

PYTHON ?= python3

# Passed on to what is run: make demo ARGS=--exit, make test ARGS='-k claim'.
ARGS ?=

# The versions that come with Python 3.11 and 3.12 do not know dependency groups.
PIP = pip==26.3

INSTALL = .venv/bin/python -m pip install -qq --disable-pip-version-check

# A virtual environment is for one version of Python and one place: a folder that was moved and a
# Python that was upgraded away both make it useless.
USABLE = test "$$(.venv/bin/python -V 2>&1)" = "$$($(PYTHON) -V 2>&1)" && grep -qF "$(CURDIR)/.venv" .venv/pyvenv.cfg 2>/dev/null
UNUSABLE := $(shell { $(USABLE); } || echo unusable)

define VIRTUAL_ENVIRONMENT
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Milepost needs Python 3.11 or later; another one is named like this: make demo PYTHON=python3.12")'
@{ $(USABLE); } || $(PYTHON) -m venv --clear .venv
endef

.PHONY: help demo test check battery bench format clean unusable

help: ## list these commands
	@sed -n 's/^\([a-z]*\): .*## /    make \1 - /p' Makefile

demo: .venv/.run ## run Milepost with a simulated survey platform (ARGS=--exit: and end after it)
	@.venv/bin/milepost demo $(ARGS)

# Tests start many processes of ours: compiled files save each a tenth of its start, and the workers
# seconds, also where the environment wants none written.
test battery: export PYTHONDONTWRITEBYTECODE =

test: .venv/.dev ## run the tests
	@.venv/bin/pytest --quiet --numprocesses 3 $(ARGS)

check: .venv/.dev ## lint, formatting, types, imports and what declares them, docstrings of the tests
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --quiet --check .
	@.venv/bin/mypy --no-error-summary
	@.venv/bin/lint-imports --no-logo
	@.venv/bin/deptry --no-ansi src migrations
	@.venv/bin/interrogate --quiet tests || .venv/bin/interrogate -vv tests

battery: .venv/.dev ## run the long forms of the reliability tests, most of an hour (docs/reliability.md)
	@.venv/bin/pytest --quiet -m battery --numprocesses 3 --log-level INFO -rA --durations 40 $(ARGS)

bench: .venv/.dev ## measure, about 25 minutes (ARGS=--short: a minute; docs/benchmarks.md)
	@.venv/bin/python -m benchmarks $(ARGS)

format: .venv/.dev ## format the code, and repair what the linter can
	@.venv/bin/ruff check --quiet --fix-only .
	@.venv/bin/ruff format --quiet .

clean: ## remove what these commands installed and cached; the data in .milepost stay
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.run: pyproject.toml constraints.txt $(UNUSABLE)
	$(VIRTUAL_ENVIRONMENT)
	@echo "Installing into .venv"
	@$(INSTALL) --constraint constraints.txt --editable .
	@touch $@

.venv/.dev: pyproject.toml constraints.txt $(UNUSABLE)
	$(VIRTUAL_ENVIRONMENT)
	@echo "Installing into .venv, with what development needs"
	@$(INSTALL) $(PIP)
	@$(INSTALL) --constraint constraints.txt --editable . --group dev
	@touch .venv/.run $@
