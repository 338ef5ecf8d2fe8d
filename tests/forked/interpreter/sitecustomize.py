"""Start code of each Python that has this folder in its PYTHONPATH.

A process that would become a worker of Ray or a rank of torchrun becomes a stand-in instead: the
server forks the worker, and the stand-in forwards signals to it and ends with the same exit code;
if the stand-in is killed, the worker is killed too.
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
    # The test process has ended: become an ordinary worker.
    except OSError:
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
# A worker of Ray.
_WORKER = any(word.endswith("/workers/default_worker.py") for word in _WORDS[:4])
# A rank of torchrun.
_RANK = "LOCAL_RANK" in os.environ and any(word.startswith("dfml.") for word in _WORDS[:3])
if "DFML_FORKED" in os.environ and (_WORKER or _RANK):
    _stand_in(os.environ["DFML_FORKED"])
