"""The connection to a Ray cluster: of RAY_ADDRESS, of this machine, or started for the sweep."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import ray
from ray.exceptions import AuthenticationError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dfml.data.datasets import REPOSITORY
from dfml.errors import InvalidInput, one_line
from orchestration.cluster.capacity import PRIVATE, grown, limits, present, total
from orchestration.cluster.environment import SETTINGS
from orchestration.cluster.ray_internals import (
    GcsClient,
    find_bootstrap_address,
    maybe_enable_token_auth_if_token_available,
)

# Only the driver connects to Weights & Biases.
OWN = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_SERVICE")
CONNECT_TIMEOUT_SECONDS = 5  # seconds in which a cluster must answer
PACKAGES = ("dfml", "orchestration")  # packages that workers of a cluster get; no data, no results
# A watcher of nodes that are about to be preempted: one more process per trial, useless on a
# cluster of this machine alone.
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
# Seconds that a trial's workers may wait for resources before the attempt counts as failed (Ray's
# default: 60). A GPU node of a cloud takes minutes to start.
PLACEMENT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
PLACEMENT_SECONDS = "1200"


@contextmanager
def cluster() -> Iterator[str]:
    """Connect to a Ray cluster.

    That is the cluster of RAY_ADDRESS ("local": start one), else one that `ray start` or `ray up`
    started on this machine, else one that is started here and ended afterwards.

    Yields:
        One line with the cluster's address, its capacity and its dashboard.

    Raises:
        InvalidInput: the cluster of RAY_ADDRESS doesn't answer, or refuses the connection.
    """
    _keep_ray_off_the_console()
    address, remark = find_cluster()
    private = address == "local"
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment = _runtime_env(private)
    with _without_secrets():
        context = ray.init(
            address=address,
            labels={PRIVATE: "true"} if private else None,
            log_to_driver=False,
            configure_logging=False,
            runtime_env=environment,
        )
    try:
        where = "a Ray cluster on this machine" if private else f"the Ray cluster at {address}"
        dashboard = f"; dashboard at http://{context.dashboard_url}" if context.dashboard_url else ""
        yield f"{where} ({_describe()}){dashboard}{remark}"
    finally:
        # A second Ctrl-C must not leave processes running.
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
        ray.shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _keep_ray_off_the_console() -> None:
    """Keep Ray's messages in the sweep's log: our callbacks print the errors of trials."""
    logger = logging.getLogger("ray")
    logger.handlers = [logging.NullHandler()]


@contextmanager
def _without_secrets() -> Iterator[None]:
    """Take the driver's secrets out of the environment.

    The daemons of a cluster that is started here inherit it, and so do its workers.
    """
    held = {name: os.environ.pop(name) for name in OWN if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


def find_cluster() -> tuple[str, str]:
    """Return the address for `ray.init`, and a remark on a cluster that was found but isn't used.

    The address is "local" if a cluster is to be started.
    """
    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return named, ""
    if named not in ("", "auto"):
        if "://" in named:
            raise InvalidInput(
                f"RAY_ADDRESS {named!r} isn't the address of a cluster's GCS; give host:port, as `ray start` prints "
                "it, and run this command on a node of the cluster"
            )
        if reason := _refusal(named):
            raise InvalidInput(
                f"the cluster that RAY_ADDRESS names, {named}, {reason}; start it, name another, or unset RAY_ADDRESS"
            )
        return named, ""
    # From a file that the last `ray start` on this machine wrote; it remains if that cluster dies.
    address = find_bootstrap_address(None)
    if address is not None:
        # As Ray does for a cluster that it finds itself. A cluster that RAY_ADDRESS names gets the
        # token only if the user has enabled it.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        if not (reason := _refusal(address)):
            return address, ""
        remark = f" (not the one at {address}: it {reason})"
    else:
        remark = ""
    if named == "auto":
        raise InvalidInput(
            f"RAY_ADDRESS is 'auto', but no Ray cluster runs here{remark}; start one, or unset RAY_ADDRESS"
        )
    return "local", remark


def _refusal(address: str) -> str:
    """Return the reason why the cluster at `address` can't be used; empty if it can."""
    if not _answers(address):
        return f"doesn't answer within {CONNECT_TIMEOUT_SECONDS} s"
    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=CONNECT_TIMEOUT_SECONDS).values()
    except AuthenticationError:
        return (
            "asks for a token: export RAY_AUTH_MODE=token, with the token in ~/.ray/auth_token, RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH"
        )
    except RayError as error:
        return f"fails ({one_line(error)})"
    alive = [node for node in nodes if node.state == 0]
    if any(PRIVATE in node.labels for node in alive):
        return "belongs to another sweep and ends with it"
    return "" if alive else "has no node"


def _answers(address: str) -> bool:
    """Return whether a gRPC server answers; Ray's own client would wait 40 s for one."""
    host, _, port = address.rpartition(":")
    try:
        # Fails immediately if no process listens.
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_SECONDS).close()
    except (OSError, ValueError):
        return False
    channel = grpc.insecure_channel(address)
    try:
        grpc.channel_ready_future(channel).result(timeout=CONNECT_TIMEOUT_SECONDS)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True


def _runtime_env(private: bool) -> dict[str, Any]:
    """Return the runtime environment of workers.

    It holds this process's settings, which workers don't inherit, and, for a cluster that wasn't
    started here, this code.
    """
    if private:
        settings = {**SETTINGS, WATCHER: "0"}
    else:
        settings = {name: value for name, value in SETTINGS.items() if name != WATCHER} | {PLACEMENT: PLACEMENT_SECONDS}
        os.environ.pop(WATCHER, None)
    for name, value in settings.items():
        # Train passes on the settings of the driver's environment.
        os.environ.setdefault(name, value)
    environment: dict[str, Any] = {"env_vars": {**settings, **_s3_server()}}
    if not private:
        environment |= {
            "py_modules": [str(REPOSITORY / package) for package in PACKAGES],
            "excludes": ["__pycache__"],
        }
    return environment


def _s3_server() -> dict[str, str]:
    """Return the settings of S3's server and region.

    Credentials aren't passed on: the dashboard shows this environment, and a cluster's nodes have
    their own (an instance profile).
    """
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
    return {name: os.environ[name] for name in names if name in os.environ}


def _describe() -> str:
    """Describe the cluster: nodes, cores, GPUs, and the nodes that the autoscaler may run."""
    now, most = present(), limits()
    held = f"{len(now)} node{'' if len(now) == 1 else 's'}, {total(now)}"
    added = [node.describe() for node in grown(now, most) if node.kind in {kind.kind for kind in most.kinds}]
    return held + (f"; its autoscaler runs up to {', '.join(added)}" if added else "")


def check_readable(path: str) -> None:
    """Check that a folder exists on each node of the connected cluster; URIs aren't checked.

    Nodes that the autoscaler may add can't be checked either.

    Raises:
        InvalidInput: it is missing on some nodes; the message lists their addresses.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if "://" in path or len(nodes) == 1:
        return
    task = ray.remote(num_cpus=0)(exists)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(path)
        for node in nodes
    ]
    without = [node["NodeManagerAddress"] for node, found in zip(nodes, ray.get(asked), strict=True) if not found]
    if without:
        raise InvalidInput(
            f"{path} doesn't exist on {len(without)} of {len(nodes)} nodes of the cluster ({', '.join(without)}); give "
            "a folder that all nodes share, or have at the same path, or an s3:// URI"
        )


def exists(path: str) -> bool:
    """Return whether a path exists; runs on each node."""
    return Path(path).exists()
