# The two commands that do everything: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

DATA ?= synthetic
PRESET ?= baseline
OUT ?= runs/$(notdir $(patsubst %/,%,$(DATA)))
ARGS ?=
BUNDLE ?=
PORT ?= 8000
JOB ?=

.PHONY: help run test test-all chaos lint format docs bench serve cluster cluster-stop submit clean

help:  ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV), a minute or two"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing what development and tests need into $(VENV)"
	@$(PIP) --editable '.[dev]'
	@touch $@

run: $(VENV)/.installed  ## Run the main job: make run [DATA=folder|lake|synthetic] [PRESET=debug|baseline|production] [OUT=folder]
	$(BIN)/python -m jobs.run_pipeline --data $(DATA) --preset $(PRESET) --out $(OUT) $(ARGS)

test: $(VENV)/.installed-dev  ## Run the quick tests (under 10 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not chaos" -n 2 --dist loadfile --max-worker-restart 0 $(ARGS)

test-all: $(VENV)/.installed-dev  ## Run every test but those that break hosts; what fails beside others runs once more alone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not chaos" -n 2 --dist loadfile --max-worker-restart 0 $(ARGS) || { \
	    [ $$? -eq 1 ] && echo "once more, alone, what failed beside others" && \
	    OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not chaos" --last-failed --last-failed-no-failures none $(ARGS); }

chaos: $(VENV)/.installed-dev  ## Break hosts, network, storage and drivers while jobs run (root; about half an hour)
	$(BIN)/python -m pytest -m chaos $(ARGS)

lint: $(VENV)/.installed-dev  ## Check format, style, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.installed-dev  ## Format the code and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed  ## Write docs/features.md from the catalogue
	$(BIN)/python -m cryptoml.features.catalogue > docs/features.md

bench: $(VENV)/.installed-dev  ## Measure speed against plain code and peers
	$(BIN)/python -m benchmarks $(ARGS)

serve: $(VENV)/.installed  ## Serve the newest bundle on http://127.0.0.1:8000
	$(BIN)/python -m serve.run --port $(PORT) $(if $(BUNDLE),--bundle $(BUNDLE)) $(ARGS)

cluster: $(VENV)/.installed  ## Start a Ray cluster on this machine: head, two workers, a token, dashboard on loopback
	$(BIN)/python -m cluster.local start

cluster-stop:  ## Stop it
	$(BIN)/python -m cluster.local stop

submit: $(VENV)/.installed  ## Submit a job to it, or to RAY_API_SERVER_ADDRESS: make submit JOB=run_pipeline ARGS="..."
	$(BIN)/python -m cluster.submit $(JOB) $(ARGS)

clean:  ## Remove the environment and the caches, keep runs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
