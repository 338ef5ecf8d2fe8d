"""The process group of a trial's workers, set up by torch's environment variables.

Unlike Ray's `TorchConfig`, this imports torch only in the workers and initializes the process group
in the train loop: an error there is a worker's error like any other, and leaves no placement group.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import ray.train
from ray.train.backend import Backend, BackendConfig

from dfml.errors import RunFailed

if TYPE_CHECKING:
    import torch

SIOCGIFADDR = 0x8915  # Linux's ioctl for an interface's address
# A rank may wait this long for another rank's checkpoint or shard.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)


class _Rendezvous(Backend):
    # As in Ray's torch backend: the GPUs of a node access each other's memory.
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        address, port = worker_group.execute_single(0, _address_and_port)
        worker_group.execute(_set_environment, address, port)


class TorchEnvBackend(BackendConfig):
    """Set torch's environment variables (MASTER_ADDR, RANK, WORLD_SIZE, …) in each worker."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Rendezvous


def _address_and_port() -> tuple[str, int]:
    """Return this worker's address and a free port on it."""
    address = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return address, probe.getsockname()[1]


def _set_environment(address: str, port: int) -> None:
    context = ray.train.get_context()
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
    }
    if context.get_world_size() > context.get_local_world_size() and (
        name := interface_towards(ray.util.get_node_ip_address())
    ):
        # gloo's default is the interface of the host name's address. On many Debian machines that
        # is 127.0.1.1, which other machines can't reach.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def interface_towards(address: str) -> str | None:
    """Return the network interface whose first IPv4 address is `address`.

    None if there is none, or on systems other than Linux.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            # An interface without an address raises.
            with contextlib.suppress(OSError):
                found = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return None


def init_process_group() -> torch.device:
    """Join the process group of the trial's workers (nccl or gloo); return this worker's device.

    The group ends with the process. If a failing worker destroyed it earlier, the other workers
    would fail with errors about a closed connection, which could be taken for the cause.

    Raises:
        RunFailed: Ray has assigned a GPU to this worker, but torch can't use it.
    """
    import torch
    import torch.distributed as dist

    device = torch.device("cpu")
    if gpus := ray.get_gpu_ids():
        if not torch.cuda.is_available():
            raise RunFailed(
                f"torch {torch.__version__} can't use GPU {gpus[0]}, which Ray has found on this node; install the "
                "GPU's driver and a torch that is built for it, or hide the GPU from Ray (CUDA_VISIBLE_DEVICES=) to "
                "train on CPU cores"
            )
        from ray.train.torch import get_device

        device = get_device()
        torch.cuda.set_device(device)
    if ray.train.get_context().get_world_size() > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT)
    return device
