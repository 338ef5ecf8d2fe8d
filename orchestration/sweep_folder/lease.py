"""A lease on a sweep's folder, so that only one `run_sweep.py` uses it; the holder renews it.

Two of them would train the same trials in the same folders. The lease is a file: neither S3 nor a
shared folder has locks that end with their holder, and the lease only has to catch mistakes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from dfml import storage
from dfml.errors import InvalidInput
from orchestration.sweep_folder import layout

HEARTBEAT_SECONDS = 15.0
LEASE_EXPIRY_SECONDS = 60.0  # seconds without a heartbeat after which another run may take the lease


class Lease(BaseModel):
    """The contents of `lease.json`.

    Attributes:
        owner: a unique identifier of the run that holds the lease.
        host: the host name of its machine.
        process: the id of its process.
        beat: Unix time of its last heartbeat.
    """

    owner: str
    host: str
    process: int
    beat: float

    def holds(self) -> bool:
        """Return whether the holder may be running; on this machine, whether its process exists."""
        if time.time() - self.beat > LEASE_EXPIRY_SECONDS:
            return False
        return self.host != socket.gethostname() or _runs(self.process)


@contextlib.contextmanager
def hold(sweep: str, warn: Callable[[str], None]) -> Iterator[None]:
    """Hold an exclusive lease on the sweep's folder.

    Args:
        sweep: the sweep's folder or URI.
        warn: called with a message if another process takes the lease anyway (a race, or this
            machine was suspended); then this process is interrupted as by Ctrl-C.

    Raises:
        InvalidInput: another run holds the lease.
    """
    uri = storage.join(sweep, layout.LEASE)
    other = _read(uri)
    if other is not None and other.holds():
        raise InvalidInput(
            f"process {other.process} on {other.host} is running the sweep {sweep} (last heartbeat "
            f"{time.time() - other.beat:.0f} s ago); wait until it ends, stop it, or choose another --name; if that "
            "machine was lost, try again in a minute"
        )
    mine = Lease(owner=uuid.uuid4().hex, host=socket.gethostname(), process=os.getpid(), beat=time.time())
    storage.write(uri, mine.model_dump_json().encode())
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(uri, mine, ended, warn), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        # If the storage is unavailable, the lease expires: that must not hide the sweep's outcome.
        with contextlib.suppress(OSError, InvalidInput):
            found = _read(uri)
            if found is not None and found.owner == mine.owner:
                storage.delete(uri)
                # The folder is empty if nothing was run.
                storage.delete_empty(sweep)


def _beat(uri: str, mine: Lease, ended: threading.Event, warn: Callable[[str], None]) -> None:
    while not ended.wait(HEARTBEAT_SECONDS):
        # A temporary failure of the storage must not end the sweep.
        with contextlib.suppress(OSError, InvalidInput):
            found = _read(uri)
            if found is not None and found.owner != mine.owner:
                warn(f"process {found.process} on {found.host} has taken over this sweep; stopping")
                os.kill(os.getpid(), signal.SIGINT)
                return
            storage.write(uri, mine.model_copy(update={"beat": time.time()}).model_dump_json().encode())


def _read(uri: str) -> Lease | None:
    """Return the lease in a file; None if there is none, or the file is damaged."""
    try:
        return Lease.model_validate_json(storage.read(uri))
    # Leases are written as a whole, so no run holds a damaged one; and reading one must not end the
    # heartbeat.
    except (FileNotFoundError, ValidationError):
        return None


def _runs(process: int) -> bool:
    """Return whether a process runs; a zombie doesn't."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:
        return True  # a process of another user, or another system than Linux
    return state != "Z"
