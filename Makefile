# `make demo` and `make test` set up what they need; see README.md.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# Two processes, each of which takes a group of modules at a time (tests/conftest.py).
TWO := -n 2 --dist loadscope --no-loadscope-reorder

# Compiled tests are kept for the next run, also where the environment tells Python to keep none.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-quick test-clusters test-views lint bench bench-stream

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python run_sweep.py

# What a change to the code is to be checked with before it is committed.
test: setup
	$(BIN)/python -m pytest $(TWO) -m "not clusters and not views"

# The unit tests alone: no cluster, one process or two, a second at most as a rule.
test-quick: setup
	$(BIN)/python -m pytest $(TWO) -m "not integration" --ignore tests/integration

# Workers, nodes and whole commands that are lost on the way; a machine reached over SSH (Debian's openssh-server).
test-clusters: setup
	$(BIN)/python -m pytest $(TWO) -m clusters tests/integration

# What people see and take away: dashboards in Chromium and Prometheus (Debian's packages), the documents' examples followed, exported models.
test-views: setup
	$(BIN)/python -m pytest $(TWO) -m views

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/flops.py
	$(BIN)/python benchmarks/rows.py

# Installs LitData and MosaicML Streaming into an environment of their own, in the temporary folder, and takes about 25 minutes.
bench-stream: setup
	$(BIN)/python benchmarks/stream.py --rounds 2
