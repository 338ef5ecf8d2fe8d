"""Read by each Python that starts with this folder in its PYTHONPATH.

One that is to become a worker of Ray's, or a rank of torchrun's, becomes a mere stand-in: it has the server fork the worker, passes on
the signals that it gets, and ends as the worker does, or the worker with it.
"""

import os
import sys


def _stand_in(folder: str) -> None:
    import json
    import signal
    import socket

    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        server.connect(f"{folder}/socket")
    except OSError:  # the test process has ended: an ordinary worker
        return
    environment = {name: value for name, value in os.environ.items() if name != "DFML_FORKED"}
    request = {"command": sys.orig_argv[1:], "cwd": os.getcwd(), "environment": environment, "stands_for": os.getpid()}
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
    worker = int(server.recv(64))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(worker, number))
    code = int(server.recv(64) or 1)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    os._exit(code)


_WORDS = sys.orig_argv[1:]
_WORKER = any(word.endswith("/workers/default_worker.py") for word in _WORDS[:4])  # of Ray's
_RANK = "LOCAL_RANK" in os.environ and any(word.startswith("dfml.") for word in _WORDS[:3])  # of torchrun's
if "DFML_FORKED" in os.environ and (_WORKER or _RANK):
    _stand_in(os.environ["DFML_FORKED"])
