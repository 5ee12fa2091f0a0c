# Everything from nothing but Python >= 3.10 and make: `make demo`, `make test`.
#
# The environment is .venv, made from the pinned, hash-checked files in requirements/. uv is used where it is on
# PATH, else venv and pip. Stamp files in .venv make a second run instant; `make clean` starts afresh.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

# Extra arguments, e.g.: make test PYTEST_ARGS="-k agreement -x"
PYTEST_ARGS ?=
# Tests mostly wait: for audio at its pace, for processes that start. The first files take longest.
PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup --no-loadscope-reorder
DEMO_ARGS ?=

# Wheels only: no code of a dependency runs while it is installed.
PINNED := --require-hashes --only-binary :all:
ifneq ($(UV),)
INSTALL := $(UV) pip install --quiet --python $(BIN)/python
else
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# An environment that uv made earlier has no pip.
NEED_PIP := $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
endif

# The project itself: nothing to fetch, its build backend is among the pinned packages.
INSTALL_PROJECT := $(INSTALL) --no-deps --no-build-isolation --editable .

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format docs lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.run ## Transcribe several sample streams at once, in the terminal
	@$(BIN)/ray-whisper demo $(DEMO_ARGS)

test: lint ## Lint, type-check, check the import rules, run the tests
	@$(PYTEST) $(PYTEST_ARGS)

lint: $(VENV)/.dev ## ruff, pyright and import-linter, without the tests
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "Badly formatted files; 'make format' mends them:" >&2; \
		$(BIN)/ruff format --check . >&2; exit 1; }
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev ## Mend formatting and what ruff can mend safely
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

docs: $(VENV)/.dev ## Write the API reference into site/
	@$(BIN)/pdoc --docformat google --output-directory site ray_whisper_streaming \
		$(if $(wildcard src/whisper_online.py),whisper_online)
	@echo "site/index.html"

# A lock file for every platform and every Python from 3.10 on; markers choose. No address of a registry in it.
# Versions move only where they must; `make lock LOCK_ARGS=--upgrade` takes the newest.
LOCK_ARGS ?=
COMPILE = $(LOCK_UV) pip compile pyproject.toml --quiet --universal --python-version 3.10 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links $(LOCK_ARGS)
ifneq ($(UV),)
LOCK_UV := $(UV)
else
LOCK_UV := $(BIN)/uv
endif

lock: $(LOCK_UV) ## Renew the pinned files in requirements/
	$(COMPILE) --extra models --extra microphone --group build --output-file requirements/run.txt
	$(COMPILE) --extra models --extra microphone --extra bench --group dev --constraints requirements/run.txt \
		--output-file requirements/dev.txt

$(BIN)/uv: | $(VENV)/.python
	@$(NEED_PIP)
	@$(INSTALL) uv

clean: ## Remove the environment, caches and what was built
	rm -rf $(VENV) site dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests tools -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "Python 3.10 or newer is needed, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)" >&2; \
		echo "Name another one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
ifneq ($(UV),)
	@$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)
else
	@$(PYTHON) -m venv --clear $(VENV) || { \
		echo "Making a virtual environment failed. On Debian and Ubuntu: apt install python3-venv." >&2; \
		echo "Or install uv; it is used when it is on PATH." >&2; exit 1; }
endif
	@touch $@

# Both stamps hang on pyproject.toml too: entry points and version come from there.
$(VENV)/.run: requirements/run.txt pyproject.toml | $(VENV)/.python
	@echo "Installing the pinned packages into $(VENV) (once) ..."
	@$(NEED_PIP)
	@$(INSTALL) $(PINNED) -r requirements/run.txt
	@$(INSTALL_PROJECT)
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/.python
	@echo "Installing the pinned packages and development tools into $(VENV) (once) ..."
	@$(NEED_PIP)
	@$(INSTALL) $(PINNED) -r requirements/dev.txt
	@$(INSTALL_PROJECT)
	@touch $(VENV)/.run $@
