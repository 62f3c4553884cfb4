# `make` alone lists what there is. Everything runs from .venv, which `make setup` makes.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
FAULTS ?= full
SEED   ?=
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup constraints demo docs bench test test-faults check format lint types layers schemas deploy-files clean

help:
	@awk 'BEGIN {FS = ":.*## "; print "make TARGET"} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Start

setup: $(STAMP) examples/keys.yaml ## Make .venv with the exact versions of constraints.txt, and keys for the examples

demo: setup ## Everything on this machine: Kafka, devices, workers, sinks, and the ledger at the end
	$(BIN)/sluice demo

##@ Prove

test: setup ## Unit, contract and end-to-end tests, on a real Kafka
	$(BIN)/pytest -n 2 --dist loadfile tests/unit tests/contract tests/e2e

test-faults: setup ## Kill, pause and starve workers, brokers and sinks; nothing may be missing (FAULTS=short, SEED=N)
	FAULTS=$(FAULTS) SEED=$(SEED) $(BIN)/pytest tests/faults

bench: setup ## CPU time and throughput on this machine, beside stock Faust and bare aiokafka
	$(BIN)/sluice bench

##@ Change

check: format lint types layers schemas deploy-files ## Everything below, without tests (make -k check: all findings, not only the first)

format: $(STAMP) ## Is the code formatted? (to format it: .venv/bin/ruff format)
	$(BIN)/ruff format --check .

lint: $(STAMP) ## ruff's rules
	$(BIN)/ruff check .

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

layers: $(STAMP) ## Imports point one way
	$(BIN)/lint-imports

# Every commit that released a version, columns or ids: an edit of those is found for ever, whoever committed it.
schemas: $(STAMP) ## Released schemas stay as they are, and newer ones only add
	@released=$$({ git log --diff-filter=A --format='--against %H' -- 'schemas/*/v*.avsc'; \
	    git log --diff-filter=AM --format='--against %H' -- 'schemas/*/columns.json' schemas/ids.json; } | sort -u); \
	  if [ -z "$$released" ]; then echo "schemas: git tells no history here, so nothing was compared"; \
	  else $(BIN)/sluice schemas check $$released; fi
	@[ "$$(git rev-parse --is-shallow-repository 2>/dev/null)" != true ] || \
	  { echo "schemas: this clone has not the whole history, so older releases were not compared (git fetch --unshallow)"; \
	    [ -z "$$CI" ]; }

deploy-files: ## Compose file, Prometheus config and alert rules, with the tools that are installed
	deploy/check

docs: $(STAMP) ## Write the pages of configuration and schemas, and the JSON Schema for editors (a test says when they are stale)
	$(BIN)/python -m sluice.reference_page docs

constraints: $(STAMP) ## Write the versions that are installed now to constraints.txt
	@{ echo '# The exact versions that Sluice is tested with. Written by `make constraints`.'; \
	  $(BIN)/pip freeze --exclude-editable --exclude sluice; } > constraints.tmp
	@mv constraints.tmp constraints.txt
	@touch $(STAMP)

clean: ## Remove what was built and cached here, keys excepted: .venv, caches, builds
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || \
	  { echo "make: $(PYTHON) is not installed. Install Python 3.11 or newer (Debian: python3 python3-venv), or name one: make setup PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $$($(PYTHON) --version) is too old. Sluice needs 3.11 or newer: make setup PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "make: $(PYTHON) cannot make virtual environments. Install its venv module (Debian: python3-venv)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,demo]'
	@touch $@

# Made once and kept: other keys could not read what these have encrypted.
examples/keys.yaml: | $(STAMP)
	$(BIN)/sluice keys new examples/workshop.yaml --all
