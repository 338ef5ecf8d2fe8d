"""S3 servers in their own processes: moto starts anywhere, Ceph also checks signatures."""

from __future__ import annotations

import http.client
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

HOST = "127.0.0.1"
CEPH_TOOLS = ("ceph", "ceph-mon", "ceph-osd", "ceph-mgr", "radosgw", "radosgw-admin", "ceph-authtool", "monmaptool")
START_SECONDS = 90  # a few seconds are enough on an idle machine; a busy one takes longer


@dataclass(frozen=True)
class Server:
    endpoint: str
    access_key: str
    secret_key: str
    name: str

    def environment(self) -> dict[str, str]:
        """Return the variables with which boto3, pyarrow and the AWS tools find this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            # Without it a client that has no key waits for a cloud's metadata service.
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def free_port() -> int:
    """Return a free port below the ephemeral ones.

    The kernel doesn't assign such a port to another process meanwhile, and a client can't be
    connected to itself, as happens on loopback with an unused ephemeral port.
    """
    # Not seeded, since tests may run in parallel.
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise RuntimeError("No free port among 100 between 20000 and 32000.")


@contextmanager
def running(
    command: Sequence[str], output: IO[bytes] | int = subprocess.DEVNULL, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the block ends, or (on Linux) the thread that started it is killed."""
    if shutil.which("setpriv"):
        command = ["setpriv", "--pdeathsig", "KILL", *command]
    # A new session, so that Ctrl-C reaches only the tests, which then stop their servers in order.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def moto_server() -> Iterator[Server]:
    """Run moto, which accepts any credentials and keeps its data in memory."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
    with tempfile.TemporaryFile() as output, running(command, output) as process:
        try:
            _wait(lambda: _answers(port), [process], "moto")
        except RuntimeError as error:
            output.seek(0)
            raise RuntimeError(f"{error}\n{output.read()[-4000:].decode(errors='replace')}") from None
        yield Server(f"http://{HOST}:{port}", "test", "test", "moto")


def ceph_available() -> bool:
    return all(shutil.which(tool) for tool in CEPH_TOOLS)


@contextmanager
def ceph_server() -> Iterator[Server]:
    """Run Ceph with objects in memory: a monitor, a manager, one OSD and the S3 gateway.

    The daemons are foreground children of this process, so that none can be left behind.
    """
    # Ceph's sockets are in the folder, and a socket's path has at most 107 characters.
    with (
        tempfile.TemporaryDirectory(prefix="ceph-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        ExitStack() as daemons,
    ):
        cluster = _Cluster(Path(folder), daemons)
        try:
            server = cluster.start()
        except (RuntimeError, subprocess.SubprocessError) as error:
            raise RuntimeError(f"Ceph did not start: {error}\n{cluster.logs()}") from error
        yield server


class _Cluster:
    def __init__(self, folder: Path, daemons: ExitStack) -> None:
        self.folder = folder
        self.daemons = daemons
        self.processes: list[subprocess.Popen[bytes]] = []
        self.mon_port, self.s3_port = free_port(), free_port()
        # The environment's Ceph and Python settings must not reach the daemons or Ceph's tools.
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(("CEPH_", "PYTHON"))}

    def start(self) -> Server:
        for name in ("mon", "mgr", "osd", "rgw", "log", "run"):
            (self.folder / name).mkdir()
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        (self.folder / "ceph.conf").write_text(self._settings(fsid))
        key = self._run("ceph-authtool", "--gen-print-key").strip()
        (self.folder / "keyring").write_text(_keyring(key))

        monmap, keyring = str(self.folder / "monmap"), str(self.folder / "keyring")
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:{HOST}:{self.mon_port}]", monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
        self._daemon("ceph-mon", "-i", "a")
        _wait(lambda: _listens(self.mon_port), self.processes, "Ceph's monitor")
        self._daemon("ceph-mgr", "-i", "x")
        self._run("ceph", "osd", "new", osd, "0", "-i", "-", stdin=f'{{"cephx_secret": "{key}"}}')
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("ceph-osd", "-i", "0")
        self._daemon("radosgw", "-n", "client.rgw")
        _wait(lambda: _answers(self.s3_port), self.processes, "Ceph's S3 gateway")

        server = Server(f"http://{HOST}:{self.s3_port}", "ceph-test-key", "ceph-test-secret", "ceph")
        keys = ["--access-key", server.access_key, "--secret-key", server.secret_key]
        self._run(
            "radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", "test", "--display-name", "test", *keys
        )
        return server

    def logs(self) -> str:
        """Return the end of each daemon's log, for the message of a failed start."""
        texts = {file.name: file.read_text(errors="replace") for file in sorted((self.folder / "log").glob("*.log"))}
        return "\n".join(f"--- {name}\n{text[-2000:]}" for name, text in texts.items())

    def _run(self, tool: str, *arguments: str, stdin: str = "") -> str:
        command = [tool, "--conf", str(self.folder / "ceph.conf"), *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=self.env, timeout=START_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def _daemon(self, *command: str) -> None:
        name, *arguments = command
        output = self.daemons.enter_context((self.folder / "log" / f"{name}.output.log").open("wb"))
        foreground = [name, "--conf", str(self.folder / "ceph.conf"), "-f", *arguments]
        self.processes.append(self.daemons.enter_context(running(foreground, output, self.env)))

    def _settings(self, fsid: str) -> str:
        folder = self.folder
        return f"""\
[global]
fsid = {fsid}
mon host = v2:{HOST}:{self.mon_port}
public addr = {HOST}
cluster addr = {HOST}
# The daemons hang without authentication.
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {folder}/keyring
# One copy on the one OSD, and few placement groups: each pool is ready at once.
mon allow pool size one = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon max pg per osd = 1000
# A monitor usually gathers changes for a second; the start is a chain of such changes.
paxos propose interval = 0.05
paxos min wait = 0.01
# Also on a machine whose disk is nearly full.
mon data avail crit = 0
mon data avail warn = 0
run dir = {folder}/run
crash dir = {folder}/log
log file = {folder}/log/$name.log
# radosgw-admin has the name of the gateway: without the process id both would want the same socket.
admin socket = {folder}/run/$name.$pid.asok
mon data = {folder}/mon
mgr data = {folder}/mgr
mgr initial modules =
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = {4 << 30}
rgw data = {folder}/rgw
# Without tcp_nodelay each small reply waits 40 ms for an acknowledgement.
rgw frontends = beast endpoint={HOST}:{self.s3_port} tcp_nodelay=1
rgw thread pool size = 16
"""


def _keyring(key: str) -> str:
    """Return a keyring with one key for all daemons: the cluster is temporary and local."""
    capabilities = {
        "mon.": {"mon": "allow *"},
        "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
        "client.rgw": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
        "mgr.x": {"mon": "allow profile mgr", "osd": "allow *", "mds": "allow *"},
        "osd.0": {"mon": "allow profile osd", "osd": "allow *", "mgr": "allow profile osd"},
    }
    lines = []
    for name, allowed in capabilities.items():
        lines += [f"[{name}]", f"\tkey = {key}"]
        lines += [f'\tcaps {daemon} = "{capability}"' for daemon, capability in allowed.items()]
    return "\n".join(lines) + "\n"


def _wait(ready: Callable[[], bool], processes: Sequence[subprocess.Popen[bytes]], what: str) -> None:
    end = time.monotonic() + START_SECONDS
    while not ready():
        for process in processes:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with {process.returncode} while {what} was to start.")
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not answer within {START_SECONDS} s.")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=START_SECONDS)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
