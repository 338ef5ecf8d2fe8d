"""A machine that is reached over SSH: Linux namespaces with their own network, home and /tmp/ray.

`ray up` and `ray down` run `ray stop` over SSH, which ends every Ray that it can see; from here it
sees only the processes of the namespaces.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dfml.data.datasets import REPOSITORY

TOOLS = ("sshd", "ssh", "ssh-keygen", "rsync", "ip", "unshare", "nsenter")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
READY = "the machine is up"


def missing() -> str:
    """Return the reason why such a machine can't run here, or an empty string."""
    if absent := [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]:
        return f"{', '.join(absent)} not installed"
    done = subprocess.run(["unshare", "--net", "--pid", "--mount", "--fork", "true"], capture_output=True, text=True)
    return done.stderr.strip()


@dataclass
class Machine:
    """A running machine.

    Attributes:
        address: the IP address within its network.
        home: the home of its only user.
        key: the file of that user's private key.
        process: the ID of its first process on this machine.
    """

    address: str
    home: Path
    key: Path
    process: int

    def run(self, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command in this repository as another machine of the same network would."""
        namespaces = [
            "nsenter",
            "--target",
            str(self.process),
            "--pid",
            "--mount",
            "--net",
            "--",
            "env",
            "-C",
            str(REPOSITORY),
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {
            "HOME": str(self.home),
            "RAY_AUTH_MODE": "token",
            "PATH": f"{Path(sys.executable).parent}:{PATH}",
        }
        return subprocess.run([*namespaces, *command], capture_output=True, text=True, timeout=timeout, env=environment)


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Start a machine with its files in `folder`; all its processes end with the block."""
    home = folder / "home"
    home.mkdir()
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
    user = pwd.getpwuid(os.getuid())
    (folder / "passwd").write_text(
        "".join(
            f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}::{home}:/bin/bash\n"
            if line.startswith(f"{user.pw_name}:")
            else line
            for line in Path("/etc/passwd").read_text().splitlines(keepends=True)
        )
    )
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host_key\nAuthorizedKeysFile {folder}/user_key.pub\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nStrictModes no\nUsePAM no\nPidFile none\n"
    )
    address = socket.gethostbyname(socket.gethostname())
    if address.startswith("127."):
        address = "10.77.0.1"
    begin = f"""
        set -e
        ip link set lo up
        ip address add {address}/32 dev lo
        ip route add default dev lo  # Ray looks up the address of the default route
        mkdir -p /tmp/ray /run/sshd
        mount -t tmpfs none /tmp/ray
        mount --bind {folder}/passwd /etc/passwd
        echo "{READY}"
        exec {shutil.which("sshd", path=PATH)} -D -e -f {folder}/sshd_config
    """
    log = folder / "machine.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["unshare", "--net", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child", "bash", "-c", begin],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PATH": PATH},
        )
    try:
        while "Server listening" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield Machine(address, home, folder / "user_key", int(child))
    finally:
        # This ends the first process of the namespace too, and with it all others.
        process.kill()
        process.wait()
