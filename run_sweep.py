"""The main command: `python run_sweep.py --dataset NAME` runs a sweep; see --help and README.md."""

import sys

import orchestration.cluster.environment  # noqa: F401  (must come before anything that imports ray)
from orchestration.cli import main

if __name__ == "__main__":
    sys.exit(main())
