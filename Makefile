# `make demo` and `make test` set up what they need; see README.md.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test test-clusters test-views lint bench bench-stream

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python run_sweep.py

test: setup
	$(BIN)/python -m pytest -m "not clusters and not views"

# On clusters of several nodes, and a machine reached over SSH (Debian's openssh-server).
test-clusters: setup
	$(BIN)/python -m pytest -m clusters

# What people see and take away: dashboards in Chromium and Prometheus (Debian's packages), the documents' examples followed, exported models.
test-views: setup
	$(BIN)/python -m pytest -m views

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
