"""Python processes that are forked from a process that has already imported torch and timm.

A fresh Python needs 4 to 8 seconds of a core to import them, and a sweep's trial of two workers
three times that. A test that doesn't depend on this start has two ways to avoid it:

- `Popen` and `run` replace those of subprocess, for commands that run this Python with `-m MODULE`,
  `-c CODE` or a script.
- `workers()` returns environment variables; Ray forks its workers too if it is started with them.

One server (`server.py`) forks for both of pytest-xdist's processes. It ends with the run of pytest,
and all forked processes end with it.
"""

from tests.forked.client import Popen, ancestors, run, share, workers

__all__ = ["Popen", "ancestors", "run", "share", "workers"]
