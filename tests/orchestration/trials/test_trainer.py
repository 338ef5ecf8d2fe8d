"""The failures after which Ray Train retries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.train import ControllerError, FailureConfig, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision

from dfml import storage
from orchestration.messages import EpochReport, WorkersEnded, WorkersStarted, message_in, result_of
from orchestration.trials.failure import NonRetryableError, training_failure
from orchestration.trials.trainer import RetryPolicy, TuneReporter

RETRY, RAISE = FailureDecision.RETRY, FailureDecision.RAISE
NEW, REPEATED = (result_of(EpochReport({}, resumed, 0)) for resumed in (False, True))
LOST = WorkerGroupError("lost", {1: RayActorError(None, "node died")})


def policy(max_failures: int = 2, trial: str = "/nowhere") -> tuple[RetryPolicy, TuneReporter]:
    tell = TuneReporter()
    config = FailureConfig(max_failures=max_failures, controller_failure_limit=max_failures)
    return RetryPolicy(config, trial=trial, reporter=tell), tell


def decisions(policy: RetryPolicy, error: TrainingFailedError, times: int) -> list[FailureDecision]:
    return [policy.make_decision(error) for _ in range(times)]


def test_a_lost_worker_is_retried_so_many_times() -> None:
    assert decisions(policy(2)[0], LOST, 3) == [RETRY, RETRY, RAISE]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Collect the reports to Tune."""
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", reports.append)
    return reports


@pytest.mark.usefixtures("told")
def test_an_epoch_that_ends_between_two_failures_starts_the_count_anew() -> None:
    retry, tell = policy(1)
    for _ in range(5):
        assert retry.make_decision(LOST) is RETRY
        tell.after_worker_group_start([1, 2])
        tell.after_report(None, [REPEATED])
        tell.after_report(None, [NEW])
    assert decisions(retry, LOST, 2) == [RETRY, RAISE]


@pytest.mark.usefixtures("told")
def test_an_epoch_that_was_reported_before_doesnt() -> None:
    """Restarted workers report it at once: a trial whose next epoch kills them would never end."""
    retry, tell = policy(2)
    tell.after_report(None, [NEW])
    found = []
    for _ in range(3):
        found.append(retry.make_decision(LOST))
        tell.after_worker_group_start([1, 2])
        tell.after_report(None, [REPEATED])
    assert found == [RETRY, RETRY, RAISE]


def test_a_checkpoint_within_the_epoch_starts_the_count_anew(tmp_path: Path) -> None:
    retry, _ = policy(1, str(tmp_path))
    for step, expected in ((0, RETRY), (0, RAISE), (10, RETRY), (20, RETRY)):
        if step:
            storage.write(f"{tmp_path}/mid_epoch/latest.json", json.dumps({"folder": f"0002_{step:08d}"}).encode())
        assert retry.make_decision(LOST) is expected


def test_a_loss_is_told_once(told: list[dict[str, Any]]) -> None:
    retry, tell = policy()
    tell.after_worker_group_start([1, 2])
    retry.make_decision(LOST)
    tell.before_worker_group_shutdown(None)
    tell.after_worker_group_start([1])
    tell.after_worker_group_start([1, 2])  # grown again
    messages = [message_in(report) for report in told]
    assert [type(each) for each in messages] == [WorkersStarted, WorkersEnded, WorkersStarted, WorkersStarted]
    started = [each for each in messages if isinstance(each, WorkersStarted)]
    assert [(each.workers, bool(each.restart_reason)) for each in started] == [(2, False), (1, True), (2, False)]


def test_a_final_error_of_one_worker_is_never_retried() -> None:
    error = WorkerGroupError(
        "", {0: RuntimeError("gloo: connection closed"), 1: NonRetryableError("the loss is nan", unfit=True)}
    )
    assert policy()[0].make_decision(error) is RAISE
    assert training_failure(error).reason == "the loss is nan"


def test_a_worker_that_ray_ended_for_memory_is_not_retried() -> None:
    for failure in (OutOfMemoryError("killed"), RayActorError(None, "the node was running low on memory")):
        error = WorkerGroupError("", {2: failure})
        assert policy()[0].make_decision(error) is RAISE
        assert "out of memory on the host, Ray killed worker 2" in training_failure(error).reason


def test_memory_that_runs_out_in_rays_part_of_a_worker_is_not_retried() -> None:
    raised = RayTaskError("poll_status", "a traceback", MemoryError()).as_instanceof_cause()
    error = WorkerGroupError("", {1: WorkerHealthCheckFailedError("failed", raised)})
    assert policy()[0].make_decision(error) is RAISE
    assert training_failure(error).reason.startswith("out of memory on the host, in worker 1: lower batch_size")


def test_waiting_for_resources_is_no_failure() -> None:
    error = ControllerError(WorkerGroupStartupTimeoutError(num_workers=2))
    assert decisions(policy(1)[0], error, 20) == [RETRY] * 20


def test_other_errors_of_the_controller_are_final() -> None:
    assert policy()[0].make_decision(ControllerError(OSError("disk full"))) is RAISE


def test_the_reason_of_a_lost_worker_is_its_own_and_one_line() -> None:
    error = WorkerGroupError("", {0: WorkerHealthCheckFailedError("failed", RayActorError(None, "gone\nfor good"))})
    assert training_failure(error).reason.startswith("worker 0: RayActorError: gone")
    assert "\n" not in training_failure(error).reason
