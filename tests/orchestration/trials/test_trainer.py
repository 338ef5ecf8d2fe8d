"""Which losses Ray Train retries."""

from __future__ import annotations

from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import ControllerError, FailureConfig, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision

from orchestration.trials.failure import Final
from orchestration.trials.trainer import RetryLosses, TellTune, reason_of

RETRY, RAISE = FailureDecision.RETRY, FailureDecision.RAISE
LOST = WorkerGroupError("lost", {1: RayActorError(None, "node died")})


def policy(max_failures: int = 2) -> tuple[RetryLosses, TellTune]:
    tell = TellTune()
    return RetryLosses(FailureConfig(max_failures=max_failures, controller_failure_limit=max_failures), tell=tell), tell


def decisions(policy: RetryLosses, error: TrainingFailedError, times: int) -> list[FailureDecision]:
    return [policy.make_decision(error) for _ in range(times)]


def test_a_lost_worker_is_retried_so_many_times() -> None:
    assert decisions(policy(2)[0], LOST, 3) == [RETRY, RETRY, RAISE]


def test_an_epoch_that_ends_between_two_losses_starts_the_count_anew() -> None:
    retry, tell = policy(1)
    for _ in range(5):
        assert retry.make_decision(LOST) is RETRY
        tell.lost = None  # as after a report
    assert decisions(retry, LOST, 2) == [RETRY, RAISE]


def test_a_final_error_of_one_worker_is_never_retried() -> None:
    error = WorkerGroupError("", {0: RuntimeError("gloo: connection closed"), 1: Final("the loss is nan")})
    assert policy()[0].make_decision(error) is RAISE
    assert reason_of(error) == "the loss is nan"


def test_a_worker_that_ray_ended_for_memory_is_not_retried() -> None:
    for failure in (OutOfMemoryError("killed"), RayActorError(None, "the node was running low on memory")):
        error = WorkerGroupError("", {2: failure})
        assert policy()[0].make_decision(error) is RAISE
        assert "out of memory on the host, Ray ended worker 2" in reason_of(error)


def test_waiting_for_resources_is_no_failure() -> None:
    error = ControllerError(WorkerGroupStartupTimeoutError(num_workers=2))
    assert decisions(policy(1)[0], error, 20) == [RETRY] * 20


def test_other_errors_of_the_controller_are_final() -> None:
    assert policy()[0].make_decision(ControllerError(OSError("disk full"))) is RAISE


def test_the_reason_of_a_lost_worker_is_its_own_and_one_line() -> None:
    error = WorkerGroupError("", {0: WorkerHealthCheckFailedError("failed", RayActorError(None, "gone\nfor good"))})
    assert reason_of(error).startswith("worker 0: RayActorError: gone")
    assert "\n" not in reason_of(error)
