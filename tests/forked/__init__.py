"""Python processes that are forked from one that has imported torch and timm already.

A new Python takes 4 to 8 seconds of a core to import them, a sweep's trial of two workers three times that. Where a test isn't about
that start, it has two ways around it:

- `Popen` and `run` stand for subprocess's: for commands that are this Python with `-m MODULE`, `-c CODE` or a script.
- `workers()` are environment variables with which the workers of a Ray that is started under them are forked too.

One server (`server.py`) forks them for both of pytest-xdist's processes; it ends with the run of pytest, and they end with it.
"""

from tests.forked.client import Popen, ancestors, run, share, workers

__all__ = ["Popen", "ancestors", "run", "share", "workers"]
