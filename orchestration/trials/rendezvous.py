"""How the workers of a trial find each other: torch's own environment variables, set before the train loop starts.

As Ray's `TorchConfig`, without torch where no training happens, and with the process group made in the loop itself: an error
there then is a worker's error as any other and leaves no placement group behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from datetime import timedelta
from typing import TYPE_CHECKING

import ray.train
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig

if TYPE_CHECKING:
    import torch

SIOCGIFADDR = 0x8915  # of Linux's ioctl: an interface's address
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # as torch's; a rank may wait so long for another's checkpoint or shard


class _Rendezvous(Backend):
    share_cuda_visible_devices = True  # as for torch: GPUs of a node reach each other's memory

    def on_start(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        address, port = worker_group.execute_single(0, get_address_and_port)
        worker_group.execute(_set_environment, address, port)


class Rendezvous(BackendConfig):
    """Configures MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE in each worker."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Rendezvous


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
        name := _interface(ray.util.get_node_ip_address())
    ):
        # Left alone, gloo takes the one that the host's name stands for, on many a Debian 127.0.1.1, where no other machine finds it.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


def _interface(address: str) -> str | None:
    """The network interface whose IPv4 address this is; None where none has it as its first, or this isn't Linux."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no address
                found = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return None


def join() -> torch.device:
    """In a worker: enter torch's process group of the trial's workers, nccl on GPUs, gloo on CPUs; returns this worker's device.

    The group ends with the process. It isn't destroyed before: a worker that fails would wake the others with errors about a
    closed connection, and those could be taken for the cause.
    """
    import torch
    import torch.distributed as dist

    device = torch.device("cpu")
    if ray.get_gpu_ids():
        from ray.train.torch import get_device

        device = get_device()
        torch.cuda.set_device(device)
    if ray.train.get_context().get_world_size() > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT)
    return device
