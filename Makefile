# `make` lists the targets. Folders may lie anywhere; nothing needs to be activated.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := $(CURDIR)/.venv/bin
RUN := PATH="$(BIN):$$PATH"
CORES ?= all
# Seconds after which a test that hangs is ended.
TIMEOUT ?= 1800
# Processes that share the test files of `make test` and `make test-engines`.
WORKERS ?= 2
# The wheelhouse: its folder, the largest part in MiB (0: no parts), packages that the machines have, further options
# (scripts/wheelhouse.py --help), and the interpreter whose pip downloads. PYTHON=3.12 is the Python of the machines.
OUT := wheelhouse
PART_MB := 60
WITHOUT :=
WHEELHOUSE :=
HOST_PYTHON ?= $(firstword $(wildcard $(BIN)/python) python3)

.PHONY: help setup demo test test-engines test-cluster test-slow lint format config wheelhouse

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  QWENLONG_TORCH=auto|cpu|cuda chooses the torch build, PYTHON the interpreter (scripts/setup.sh)."

setup: ## Make .venv and install the locked packages; a no-op when they are there
	@PYTHON="$(PYTHON)" scripts/setup.sh

demo: setup ## Run the whole recipe on this machine (configs/laptop.yaml), and say where the report is
	@$(RUN) snakemake --cores $(CORES)
	@echo "Report: $(CURDIR)/results/laptop/audit/report.html"

lint: setup ## Format and lint checks, types, import rules, the workflow's lint
	@$(RUN) ruff check packages tests scripts
	@$(RUN) ruff format --check packages tests scripts
	@$(RUN) mypy
	@$(RUN) lint-imports
	@$(RUN) snakefmt --check Snakefile workflow
	@$(RUN) snakemake --lint

test: lint ## Lint, then unit and workflow tests with one tiny run through the real engines
	@$(RUN) pytest tests/workflow tests/unit -m "not engines and not slow" --timeout $(TIMEOUT) -n $(WORKERS) --dist loadfile

test-engines: setup ## Tests that need verl on Ray, servers and other engines
	@$(RUN) pytest tests -m "engines and not slow" --timeout $(TIMEOUT) -n $(WORKERS) --dist loadfile

test-cluster: setup ## The tiny run and Ray in a real Slurm of two machines, made of this one (needs root; Linux)
	@$(RUN) pytest tests/cluster -m "cluster and not slow" --timeout $(TIMEOUT)

test-slow: setup ## Kill matrices, big inputs, learning runs
	@$(RUN) pytest tests -m slow --timeout 7200

format: setup ## Format the code
	@$(RUN) ruff check --fix packages tests scripts
	@$(RUN) ruff format packages tests scripts
	@$(RUN) snakefmt Snakefile workflow

config: setup ## Write configs/default.yaml, configs/schema.json and configs/expanded anew
	@$(RUN) qwenlong config dump > configs/.default.yaml && mv configs/.default.yaml configs/default.yaml
	@$(RUN) qwenlong config schema > configs/.schema.json && mv configs/.schema.json configs/schema.json
	@$(RUN) qwenlong train expand --config configs/paper.yaml --out configs/expanded/paper --no-check

wheelhouse: ## Download every pinned wheel for machines without a network, in parts of PART_MB (docs/wheelhouse.md)
	@"$(HOST_PYTHON)" scripts/wheelhouse.py --python "$(or $(PYTHON),3.12)" --out "$(OUT)" --part-mb "$(PART_MB)" \
	  $(if $(WITHOUT),--without '$(WITHOUT)') $(WHEELHOUSE)
