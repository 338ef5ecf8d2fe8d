# Each target sets up the environment it needs; see README.md.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# Two processes, each of which takes one group of modules at a time (tests/conftest.py).
TWO := -n 2 --dist loadscope --no-loadscope-reorder

# Keep compiled tests for the next run, even if the environment disables that.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-quick test-clusters test-views lint bench bench-stream gpu-check

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python run_sweep.py

# The tests to run before a commit.
test: setup
	$(BIN)/python -m pytest $(TWO) -m "not clusters and not views"

# The unit tests only: no cluster, one or two processes, usually a second at most per test.
test-quick: setup
	$(BIN)/python -m pytest $(TWO) -m "not integration" --ignore tests/integration

# Loss of workers, nodes and whole commands; a machine over SSH (needs Debian's openssh-server).
test-clusters: setup
	$(BIN)/python -m pytest $(TWO) -m clusters tests/integration

# Dashboards in Chromium and Prometheus (needs Debian's packages), the documents' examples, exported
# models.
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

# All checks on this machine's GPU, in six minutes; see benchmarks/gpu/README.md.
gpu-check: setup
	$(BIN)/python benchmarks/gpu/check.py --out benchmarks/results/gpu
	$(BIN)/python benchmarks/gpu/table.py

# Installs LitData and MosaicML Streaming into a temporary environment; takes about 25 minutes.
bench-stream: setup
	$(BIN)/python benchmarks/stream.py --rounds 2
