"""The Ray cluster a sweep runs on: the one RAY_ADDRESS names, one that runs on this machine, or one started for the sweep alone."""

from __future__ import annotations

import logging
import os
import signal
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]
import ray
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.services import find_bootstrap_address
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError

from dfml.data.datasets import REPOSITORY
from dfml.errors import InvalidInput
from orchestration.cluster.capacity import PRIVATE, amount, grown, limits, present
from orchestration.cluster.places import check_readable
from orchestration.cluster.share import Share, share
from orchestration.cluster.waiting import waiting_for
from orchestration.environment import SETTINGS

__all__ = ["Share", "check_readable", "cluster", "share", "waiting_for"]

OWN = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_SERVICE")  # the driver alone speaks to Weights & Biases
PATIENCE = 5  # seconds in which a cluster must answer
SHIPPED = ("dfml", "orchestration")  # packages that workers of a cluster get; no data, no results
# A watcher of nodes that are about to be taken away: one more process for each trial to start, of no use on one's own machine.
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
# How long the workers of a trial may wait for their place before the attempt counts as failed (Ray: 60). A cloud's GPU node takes minutes.
PLACEMENT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
PLACEMENT_SECONDS = "1200"


@contextmanager
def cluster() -> Iterator[str]:
    """Connect to a Ray cluster; in this order the one RAY_ADDRESS names ("local": start one), one that `ray start` or `ray up`
    started on this machine, one that is started here and ended afterwards.

    Yields:
        One line that says which it is, what it holds and how to watch it.

    Raises:
        InvalidInput: the cluster of RAY_ADDRESS doesn't answer, or doesn't let us in.
    """
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors of trials reach the console through our callbacks
    warnings.filterwarnings("ignore", module="ray")
    address, remark = find_cluster()
    private = address == "local"
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    environment = _runtime_env(private)
    with _kept_back():
        context = ray.init(
            address=address,
            labels={PRIVATE: "true"} if private else None,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            runtime_env=environment,
        )
    try:
        where = "a Ray cluster on this machine" if private else f"the Ray cluster at {address}"
        dashboard = f"; dashboard at http://{context.dashboard_url}" if context.dashboard_url else ""
        yield f"{where} ({_describe()}){dashboard}{remark}"
    finally:
        # A second Ctrl-C must not leave processes behind.
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
        ray.shutdown()
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _kept_back() -> Iterator[None]:
    """The driver's own secrets are out of the environment, which the daemons of a cluster that is started here, and so its workers, get."""
    held = {name: os.environ.pop(name) for name in OWN if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


def find_cluster() -> tuple[str, str]:
    """The address for `ray.init`, "local" for a cluster of one's own, and a remark on a cluster that was found but isn't used."""
    named = os.environ.get("RAY_ADDRESS", "")
    if named == "local":
        return named, ""
    if named not in ("", "auto"):
        if "://" in named:
            raise InvalidInput(
                f"RAY_ADDRESS {named!r} is no address of a cluster's GCS: give host:port, as `ray start` prints it, and run this on a "
                "node of the cluster"
            )
        if reason := _refusal(named):
            raise InvalidInput(
                f"the cluster that RAY_ADDRESS names, {named}, {reason}: start it, name another, or unset RAY_ADDRESS"
            )
        return named, ""
    address = find_bootstrap_address(
        None
    )  # what the last `ray start` on this machine wrote; it isn't deleted when that cluster dies
    if address is not None:
        # As Ray itself does for a cluster that it finds; one that RAY_ADDRESS names isn't shown the token unasked.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        if not (reason := _refusal(address)):
            return address, ""
        remark = f" (not the one at {address}: it {reason})"
    else:
        remark = ""
    if named == "auto":
        raise InvalidInput(
            f"RAY_ADDRESS is 'auto', but no Ray cluster runs here{remark}: start one, or unset RAY_ADDRESS"
        )
    return "local", remark


def _refusal(address: str) -> str:
    """Why the cluster at `address` can't be used; empty if it can."""
    if not _answers(address):
        return f"doesn't answer within {PATIENCE} s"
    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=PATIENCE).values()
    except AuthenticationError:
        return (
            "asks for a token: export RAY_AUTH_MODE=token, with its token in ~/.ray/auth_token, RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH"
        )
    except RayError as error:
        return f"fails ({str(error).strip().splitlines()[0]})"
    alive = [node for node in nodes if node.state == 0]
    if any(PRIVATE in node.labels for node in alive):
        return "belongs to another sweep and ends with it"
    return "" if alive else "has no node"


def _answers(address: str) -> bool:
    """Whether there is a gRPC server; Ray's own client waits 40 s for one that isn't there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection(
            (host.strip("[]"), int(port)), timeout=PATIENCE
        ).close()  # at once where nobody listens
    except (OSError, ValueError):
        return False
    channel = grpc.insecure_channel(address)
    try:
        grpc.channel_ready_future(channel).result(timeout=PATIENCE)
    except grpc.FutureTimeoutError:
        return False
    finally:
        channel.close()
    return True


def _runtime_env(private: bool) -> dict[str, Any]:
    """What a worker needs besides Ray: this process's settings, which it doesn't inherit, and on another's cluster this very code."""
    if private:
        settings = {**SETTINGS, WATCHER: "0"}
    else:
        settings = {name: value for name, value in SETTINGS.items() if name != WATCHER} | {PLACEMENT: PLACEMENT_SECONDS}
        os.environ.pop(WATCHER, None)
    for name, value in settings.items():
        os.environ.setdefault(name, value)  # Train hands its settings on from the driver's environment
    environment: dict[str, Any] = {"env_vars": {**settings, **_s3_server()}}
    if not private:
        environment |= {
            "py_modules": [str(REPOSITORY / package) for package in SHIPPED],
            "excludes": ["__pycache__"],
        }
    return environment


def _s3_server() -> dict[str, str]:
    """Which S3 server and region are meant. Credentials aren't passed on: the dashboard shows this environment, and a cluster's
    nodes have their own (an instance profile)."""
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
    return {name: os.environ[name] for name in names if name in os.environ}


def _describe() -> str:
    """Nodes, cores, GPUs, and what the autoscaler may add."""
    now, most = present(), limits()
    held = (
        f"{len(now)} node{'' if len(now) == 1 else 's'}, {amount(sum(n.cpus for n in now), sum(n.gpus for n in now))}"
    )
    added = [node.describe() for node in grown(now, most) if node.kind in {kind.kind for kind in most.kinds}]
    return held + (f"; its autoscaler keeps up to {', '.join(added)}" if added else "")
