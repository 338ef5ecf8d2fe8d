"""All private names of Ray that this project uses, each with the reason why no public one serves.

constraints.txt holds the version of Ray that they are tested with; a new version may move or remove
any of them. No other file imports one (tests/orchestration/cluster/test_ray_internals.py).

A name is imported at its first use: the driver, a trial's process and workers need different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

TRAIN = "ray.train.v2._internal"

# Name -> module, and why.
NAMES: dict[str, tuple[str, str]] = {
    # Connecting
    "GcsClient": ("ray._raylet", "lists a cluster's nodes before `ray.init`, which waits 40 s for a dead cluster"),
    "find_bootstrap_address": ("ray._private.services", "`ray.init` finds a cluster itself but doesn't report which"),
    "maybe_enable_token_auth_if_token_available": (
        "ray._private.authentication.authentication_token_setup",
        "`ray.init` reads the user's token only after it has chosen a cluster",
    ),
    # Why a trial waits
    "available_resources_per_node": ("ray._private.state", "`ray.available_resources` sums over nodes"),
    "jobs": ("ray._private.state", "`ray.util.state.list_jobs` needs the dashboard"),
    "state": ("ray._private.state", "`ray.util.state` needs the dashboard"),
    "DEBUG_AUTOSCALING_STATUS": ("ray._private.ray_constants", "the status of autoscaler v1 has no public reader"),
    "_internal_kv_get": ("ray.experimental.internal_kv", "reads that status"),
    "get_cluster_status": ("ray.autoscaler.v2.sdk", "the status of autoscaler v2; alpha, without a public alias"),
    "_derive_autoscaling_config_from_ray_cr": (
        "ray.autoscaler._private.kuberay.autoscaling_config",
        "on Kubernetes only KubeRay's own code derives how far a cluster may grow",
    ),
    "KubernetesHttpApiClient": (
        "ray.autoscaler._private.kuberay.node_provider",
        "reads the RayCluster, as KubeRay does",
    ),
    "PlacementGroupTableData": (
        "ray.core.generated.gcs_pb2",
        "`placement_group_table` doesn't report whether a group's creator is dead",
    ),
    # Driving a trial
    "DataParallelTrainer": ("ray.train.v2.api.data_parallel_trainer", "`TorchTrainer` needs torch in each process"),
    "TrainController": (
        f"{TRAIN}.execution.controller",
        "a trainer starts it as an actor: one more process per trial, of a second or more",
    ),
    "RayTrainCallback": (f"{TRAIN}.execution.callback", "type of the trainer's callbacks"),
    "ReportCallback": (
        f"{TRAIN}.execution.callback",
        "`UserCallback.after_report` has no information on restarts of workers",
    ),
    "WorkerGroupCallback": (f"{TRAIN}.execution.callback", "`UserCallback` isn't called when workers start or end"),
    "DefaultFailurePolicy": (
        f"{TRAIN}.execution.failure_handling",
        "`FailureConfig` retries errors that would recur, and never forgets earlier failures",
    ),
    "FailureDecision": (f"{TRAIN}.execution.failure_handling", "the policy's decision"),
    "WorkerGroupStartupTimeoutError": (f"{TRAIN}.exceptions", "distinguishes waiting for resources from failing"),
    "RayTrainError": (f"{TRAIN}.exceptions", "base class of errors of Ray, not of the train loop"),
    "PlacementGroupCleanerCallback": (
        f"{TRAIN}.callbacks.placement_group_callback",
        "left out: an actor per trial; `trials/placement.py` does its work in the driver",
    ),
    "DatasetsCallback": (f"{TRAIN}.callbacks.datasets", "left out: an actor per trial for Ray Data, unused here"),
    "autoscaling_coordinator_client": (
        f"{TRAIN}.execution.scaling_policy",
        "a killed trial keeps its reservation for three minutes, and no setting shortens that",
    ),
    "WORKER_GROUP_START_TIMEOUT_S_ENV_VAR": (f"{TRAIN}.constants", "a setting that is documented by name only"),
    "CHECKPOINT_MANAGER_SNAPSHOT_FILENAME": (
        f"{TRAIN}.constants",
        "the file names the latest checkpoint, which `Result.from_path` doesn't",
    ),
}

# Methods of Ray's classes that subclasses here override, and attributes that are read or set, as
# "Class.name" with the class among NAMES.
MEMBERS = {
    "DataParallelTrainer._create_default_callbacks": "leaves two callbacks out and adds the reporter to Tune",
    "DataParallelTrainer._initialize_and_run_controller": "runs the controller in the trial's process",
    "DefaultFailurePolicy._worker_group_failures": "failures before the last checkpoint don't count",
    "DefaultFailurePolicy._controller_failures": "failures before the last checkpoint don't count",
    "TrainController._checkpoint_manager": "writes the snapshot in one step (`write_snapshot_by`)",
}

SNAPSHOT = "checkpoint_manager_snapshot.json"  # CHECKPOINT_MANAGER_SNAPSHOT_FILENAME, without importing it


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(NAMES[name][0]), name)


def forget_failures(policy: Any) -> None:
    """Let a `DefaultFailurePolicy` count failures from 0 again."""
    policy._worker_group_failures = policy._controller_failures = 0


def write_snapshot_by(controller: Any, write: Callable[[bytes], None]) -> None:
    """Make a `TrainController` write its list of checkpoints with `write`.

    Ray overwrites the old file in place; a process that is killed meanwhile would leave half a
    file, and no checkpoint to resume from.
    """
    manager = controller._checkpoint_manager
    manager._write_state_to_storage = lambda: write(manager._save_state().encode())


def shorten_reservations(renewal_seconds: int, expiry_seconds: int) -> None:
    """Shorten the time for which Ray reserves the resources of a killed trial, for all trainers."""
    client = __getattr__("autoscaling_coordinator_client")
    client.AUTOSCALING_REQUESTS_INTERVAL_S = renewal_seconds
    client.AUTOSCALING_REQUESTS_EXPIRE_TIME_S = expiry_seconds


def placement_groups() -> Iterator[Any]:
    """Yield all placement groups of the cluster, as Ray's own messages.

    Ray's public state API takes longer: it asks the dashboard.
    """
    data = __getattr__("PlacementGroupTableData")
    for content in __getattr__("state")._connect_and_get_accessor().get_placement_group_table():
        yield data.FromString(content)
