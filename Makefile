# Every target does its own set-up: `make demo` on a fresh clone is enough. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
BOOTSTRAPPED := $(VENV)/.bootstrapped
INSTALLED := $(VENV)/.installed
LOCK_OPTIONS := --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --quiet

# Large wheels over slow lines: wait longer and retry more often than uv does by default.
export UV_HTTP_TIMEOUT ?= 120
export UV_HTTP_RETRIES ?= 6
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(INSTALLED) ## Install everything into .venv, exactly as locked

$(BOOTSTRAPPED): requirements-bootstrap.lock
	@for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' > /dev/null 2>&1; then break; fi; python=; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "Tidewatch needs Python 3.11 or newer, and none was found: install one, or name it with 'make $(MAKECMDGOALS) PYTHON=/path/to/python'." >&2; \
	  exit 1; \
	fi; \
	if ! [ -x $(BIN)/python ]; then \
	  echo "Creating $(VENV) with $$("$$python" --version)"; \
	  "$$python" -m venv $(VENV) || { rm -rf $(VENV); echo "This Python cannot make virtual environments: install its venv package (Debian: python3-venv)." >&2; exit 1; }; \
	fi
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null
	@$(BIN)/python -m pip install --quiet --retries 6 --timeout 60 --require-hashes -r $<
	@touch $@

$(INSTALLED): $(BOOTSTRAPPED) requirements.lock pyproject.toml
	@echo "Installing the locked packages; the first time this downloads several GB (most of it is torch) and takes some minutes"
	@$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: test
test: setup ## Run every test, against a real Kafka and a real Elasticsearch
	@$(BIN)/tidewatch local install || echo "Tests that need the servers will be skipped (in CI: fail)." >&2
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: check
check: setup ## Lint, types and import rules
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: demo
demo: setup ## Watch this machine and cause a fault on it; DATA=FILE replays a data set instead, SPEED=N rows a second
	@$(BIN)/tidewatch demo $(if $(DATA),--data "$(DATA)") $(if $(SPEED),--speed "$(SPEED)")

.PHONY: bench-quality
bench-quality: setup ## Measure detection quality on the labelled series; BENCH_ARGS="…" is passed on
	@$(BIN)/python -m bench.quality $(BENCH_ARGS)

.PHONY: bench
bench: setup ## Measure speed and latency on the local Kafka; BENCH_ARGS="--quick" is the short form
	@$(BIN)/python -m bench.throughput $(BENCH_ARGS)

.PHONY: bench-outage
bench-outage: setup ## Measure how fast the service catches up after an outage; BENCH_ARGS="--samples 3600000" is an hour of samples
	@$(BIN)/tidewatch local install
	@$(BIN)/python -m bench.outage $(BENCH_ARGS)

.PHONY: bench-rolling
bench-rolling: setup ## Measure latency while two workers are restarted under load; BENCH_ARGS="--rate 5000"
	@$(BIN)/tidewatch local install
	@$(BIN)/python -m bench.rolling $(BENCH_ARGS)

.PHONY: profile
profile: setup ## Write a flame graph of the hot path to bench/results/profile.svg
	@$(BIN)/python -m bench.profile $(PROFILE_ARGS)

.PHONY: chaos
chaos: setup ## Kill the service 200 times and check that nothing is lost or doubled; CHAOS_ARGS="--seed 7 --kills 50"
	@$(BIN)/tidewatch local install
	@$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

.PHONY: hostile
hostile: setup ## Send a million malformed and hostile records; HOSTILE_ARGS="--count 20000" is passed on
	@$(BIN)/python -m tests.hostile $(HOSTILE_ARGS)

.PHONY: reference
reference: setup ## Generate docs/reference/ from the code
	@$(BIN)/python -m tools.reference

.PHONY: format
format: setup ## Format the code
	@$(BIN)/ruff check --fix --select I
	@$(BIN)/ruff format

.PHONY: lock
lock: $(BOOTSTRAPPED) ## Resolve all versions again: Python packages, and the jars of the local servers
	@$(BIN)/uv pip compile $(LOCK_OPTIONS) --upgrade --all-extras pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile $(LOCK_OPTIONS) --constraints requirements.lock pyproject.toml -o requirements-runtime.lock
	@printf 'uv\nhatchling\neditables\n' | $(BIN)/uv pip compile $(LOCK_OPTIONS) --constraints requirements.lock - -o requirements-bootstrap.lock
	@$(MAKE) --no-print-directory setup
	@$(BIN)/python -m service.local.jars

.PHONY: clean
clean: ## Remove what was installed and built here; downloads stay in the cache of the user
	@if [ -x $(BIN)/tidewatch ] && [ -d .tidewatch/local ]; then $(BIN)/tidewatch local down; fi
	@rm -rf $(VENV) .tidewatch .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
