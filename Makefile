PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNDIR ?= runs/quickstart
PYTEST := $(BIN)/python -m pytest
# Each process holds torch and models: about 2 GB.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: run check test bench docs-tables lint lock clean

run: $(VENV)/.installed  ## set everything up, run the quickstart experiment, and write its page
	$(BIN)/megalith run data/experiments/quickstart.yaml --output $(RUNDIR)
	$(BIN)/megalith report $(RUNDIR)

check: lint  ## static checks and the quick tests, in two to three minutes
	$(PYTEST) $(PARALLEL) -m "not system and not alone"

test: lint  ## static checks and the whole suite; what needs the machine to itself comes last
	$(PYTEST) $(PARALLEL) -m "not alone"
	$(PYTEST) -m alone

bench: $(VENV)/.installed  ## speed against torchattacks, foolbox, ART and adv-lib, in about fifteen minutes
	$(BIN)/python -m benchmarks

docs-tables: $(VENV)/.installed  ## makes the tables of README and docs anew from the rows in data/results
	$(BIN)/python -m docs.evidence tables

docs/chelsea.png: docs/chelsea.py $(VENV)/.installed  ## the picture at the top of the README
	$(BIN)/python -m docs.chelsea

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The lock is complete, so nothing is resolved here: what was tested is what gets installed.
$(VENV)/.installed: requirements.txt setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "Megalith needs Python 3.11 to 3.13; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@echo "Installing pinned packages (PyTorch is large: about 3 GB to download the first time) ..."
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -r requirements.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps -e .
	@touch $@

lock: $(VENV)/.installed
	(echo "# Pinned and tested versions of everything in pyproject.toml. Remade with: make lock"; \
	 $(BIN)/uv pip compile --quiet pyproject.toml --universal --fork-strategy fewest --python-version 3.11 \
	   --all-extras --no-annotate --no-header) > requirements.lock
	mv requirements.lock requirements.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
