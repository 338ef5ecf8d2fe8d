"""One `run_sweep.py` at a time for a sweep's folder: the one that has it says every few seconds that it is alive.

Two of them would train the same trials into the same folders. A file is enough where mistakes are to be caught: neither S3 nor a
shared folder has locks that end with their holder.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel

from dfml import storage
from dfml.errors import InvalidInput
from orchestration import layout

BEAT = 15.0  # seconds
LOST = 60.0  # seconds without a sign of life, after which another may take over


class Lease(BaseModel):
    """What the holder writes.

    Attributes:
        owner: of this very run.
        host: its machine.
        process: its id there.
        beat: when it was last alive, Unix time.
    """

    owner: str
    host: str
    process: int
    beat: float

    def holds(self) -> bool:
        """Whether the holder must be taken to be running; one that was killed on this machine is known at once."""
        if time.time() - self.beat > LOST:
            return False
        return self.host != socket.gethostname() or _runs(self.process)


@contextlib.contextmanager
def hold(sweep: str, say: Callable[[str], None]) -> Iterator[None]:
    """Have a sweep's folder to oneself.

    Args:
        sweep: its folder or URI.
        say: called where another has taken it all the same, in the same second or after this machine had slept; then the process
            is interrupted as by Ctrl-C.

    Raises:
        InvalidInput: another run has it.
    """
    place = storage.join(sweep, layout.LEASE)
    other = _read(place)
    if other is not None and other.holds():
        raise InvalidInput(
            f"process {other.process} on {other.host} is running the sweep {sweep} (last sign of life {time.time() - other.beat:.0f} s ago): "
            f"let it end, stop it, or choose another --name; if that machine was lost, try again in a minute"
        )
    mine = Lease(owner=uuid.uuid4().hex, host=socket.gethostname(), process=os.getpid(), beat=time.time())
    storage.write(place, mine.model_dump_json().encode())
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(place, mine, ended, say), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        # Where the storage is away it runs out by itself; what the sweep came to counts.
        with contextlib.suppress(OSError, InvalidInput):
            found = _read(place)
            if found is not None and found.owner == mine.owner:
                storage.delete(place)
                storage.delete_empty(sweep)  # where nothing came of it


def _beat(place: str, mine: Lease, ended: threading.Event, say: Callable[[str], None]) -> None:
    while not ended.wait(BEAT):
        # A storage that is away for a while must not end the sweep, which can wait for it.
        with contextlib.suppress(OSError, InvalidInput):
            found = _read(place)
            if found is not None and found.owner != mine.owner:
                say(f"process {found.process} on {found.host} has taken over this sweep; stopping")
                os.kill(os.getpid(), signal.SIGINT)
                return
            storage.write(place, mine.model_copy(update={"beat": time.time()}).model_dump_json().encode())


def _read(place: str) -> Lease | None:
    try:
        return Lease.model_validate(json.loads(storage.read(place)))
    except FileNotFoundError:
        return None


def _runs(process: int) -> bool:
    """Whether there is such a process; one that has ended and whose parent hasn't asked yet isn't running."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user, or not on Linux
    return state != "Z"
