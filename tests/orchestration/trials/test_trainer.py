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
from dfml.recipe import Recipe
from orchestration.messages import EpochReport, WorkersEnded, WorkersStarted, message_in, result_of
from orchestration.trials.failure import Failure, Memory, NonRetryableError, training_failure
from orchestration.trials.memory import MemoryUse, memory_use
from orchestration.trials.trainer import RetryPolicy, TuneReporter
from tests.plans import job_of

RETRY, RAISE = FailureDecision.RETRY, FailureDecision.RAISE
NEW, REPEATED = (result_of(EpochReport({}, resumed, 0)) for resumed in (False, True))
LOST = WorkerGroupError("lost", {1: RayActorError(None, "node died")})
# Ray's words for a process that was killed by SIGKILL.
KILLED = """The actor died unexpectedly before finishing this task.
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed \
by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly."""
VANISHED = WorkerGroupError("lost", {0: WorkerHealthCheckFailedError("failed", RayActorError(None, KILLED))})


def out_of(memory: Memory) -> WorkerGroupError:
    reason = f"out of memory on the {memory} (a message)"
    return WorkerGroupError("", {1: NonRetryableError(Failure(reason, False, unfit=True, memory=memory))})


def policy(max_failures: int = 2, sweep: str = "/nowhere", **job: Any) -> tuple[RetryPolicy, TuneReporter]:
    made = job_of(sweep=sweep, **job)
    tell = TuneReporter(memory_use(made))
    config = FailureConfig(max_failures=max_failures, controller_failure_limit=max_failures)
    return RetryPolicy(config, job=made, reporter=tell), tell


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
    folder = job_of(sweep=str(tmp_path)).uri
    for step, expected in ((0, RETRY), (0, RAISE), (10, RETRY), (20, RETRY)):
        if step:
            storage.write(f"{folder}/mid_epoch/latest.json", json.dumps({"folder": f"0002_{step:08d}"}).encode())
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
    nan = NonRetryableError(Failure("the loss is nan", retryable=False, unfit=True))
    error = WorkerGroupError("", {0: RuntimeError("gloo: connection closed"), 1: nan})
    assert policy()[0].make_decision(error) is RAISE
    assert training_failure(error).reason == "the loss is nan"


@pytest.mark.parametrize(
    "failure",
    [
        OutOfMemoryError("killed"),
        RayActorError(None, "1 worker(s) were killed due to the node running low on memory."),
        WorkerHealthCheckFailedError("failed", OutOfMemoryError("killed")),
    ],
)
def test_a_worker_that_ray_killed_for_memory_has_used_too_much_of_it(failure: Exception) -> None:
    expected = Failure("out of memory on the host (Ray killed worker 2)", False, unfit=True, memory="host")
    assert training_failure(WorkerGroupError("", {2: failure})) == expected


def test_so_has_one_in_which_rays_own_part_finds_no_memory() -> None:
    raised = RayTaskError("poll_status", "a traceback", MemoryError()).as_instanceof_cause()
    error = WorkerGroupError("", {1: WorkerHealthCheckFailedError("failed", raised)})
    expected = Failure("out of memory on the host (in worker 1)", False, unfit=True, memory="host")
    assert training_failure(error) == expected


SIX_IMAGES = Recipe(batch_size=12)  # on each of two workers


@pytest.mark.usefixtures("told")
def test_out_of_memory_is_retried_with_more_parts_until_each_is_one_image(tmp_path: Path) -> None:
    retry, tell = policy(0, str(tmp_path), recipe=SIX_IMAGES)
    tell.after_worker_group_start([1, 2])
    for parts in (2, 4, 6):
        assert retry.make_decision(out_of("GPU")) is RETRY
        assert (
            tell.restart_reason == f"out of memory on the GPU (a message); each batch is now computed in {parts} parts"
        )
        # The next workers read it.
        assert memory_use(job_of(sweep=str(tmp_path))).parts == parts
        tell.after_worker_group_start([1, 2])
    assert retry.make_decision(out_of("GPU")) is RAISE


@pytest.mark.usefixtures("told")
def test_out_of_memory_on_the_host_ends_processes_that_decode_first(tmp_path: Path) -> None:
    retry, tell = policy(0, str(tmp_path), recipe=SIX_IMAGES, gpus=1, cpus=4)
    tell.after_worker_group_start([1, 2])
    found = []
    while retry.make_decision(out_of("host")) is RETRY:
        found.append((tell.memory.loader_workers, tell.memory.parts))
    assert found == [(1, 1), (0, 1), (0, 2), (0, 4), (0, 6)]


@pytest.mark.usefixtures("told")
def test_what_was_reduced_stays_reduced_in_another_process(tmp_path: Path, told: list[dict[str, Any]]) -> None:
    retry, tell = policy(0, str(tmp_path), recipe=SIX_IMAGES)
    tell.after_worker_group_start([1, 2])
    retry.make_decision(out_of("GPU"))
    told.clear()
    policy(0, str(tmp_path), recipe=SIX_IMAGES)[1].after_worker_group_start([1, 2])
    assert message_in(told[0]) == WorkersStarted(2, None, parts=2, loader_workers=0)


@pytest.mark.usefixtures("told")
def test_memory_that_runs_out_after_a_loss_may_be_held_by_killed_processes(tmp_path: Path) -> None:
    retry, tell = policy(1, str(tmp_path), recipe=SIX_IMAGES)
    tell.after_worker_group_start([1, 2])
    assert retry.make_decision(LOST) is RETRY
    assert retry.make_decision(out_of("GPU")) is RETRY
    assert (tell.memory.parts, tell.restart_reason) == (1, "out of memory on the GPU (a message)")
    assert retry.make_decision(out_of("GPU")) is RETRY
    assert tell.memory.parts == 2
    # Once an epoch has ended, killed processes are gone.
    tell.after_report(None, [NEW])
    assert retry.make_decision(LOST) is RETRY
    tell.after_report(None, [NEW])
    assert retry.make_decision(out_of("GPU")) is RETRY
    assert tell.memory.parts == 4


@pytest.mark.usefixtures("told")
def test_the_hosts_memory_isnt_held_by_killed_processes(tmp_path: Path) -> None:
    retry, tell = policy(1, str(tmp_path), recipe=SIX_IMAGES)
    tell.after_worker_group_start([1, 2])
    assert decisions(retry, LOST, 1) == decisions(retry, out_of("host"), 1) == [RETRY]
    assert tell.memory.parts == 2


@pytest.mark.usefixtures("told")
def test_workers_that_vanish_twice_in_a_row_may_lack_memory(tmp_path: Path) -> None:
    retry, tell = policy(3, str(tmp_path), recipe=SIX_IMAGES)
    tell.after_worker_group_start([1, 2])
    found = []
    for _ in range(4):
        decision = retry.make_decision(VANISHED)
        found.append((decision, tell.memory.parts))
    # They may also have crashed: such restarts are counted.
    assert found == [(RETRY, 1), (RETRY, 2), (RETRY, 4), (RAISE, 6)]


@pytest.mark.usefixtures("told")
def test_so_may_workers_that_vanish_after_memory_ran_out(tmp_path: Path) -> None:
    retry, tell = policy(3, str(tmp_path), recipe=SIX_IMAGES)
    tell.after_worker_group_start([1, 2])
    assert retry.make_decision(out_of("host")) is RETRY
    assert retry.make_decision(VANISHED) is RETRY
    assert tell.memory.parts == 4
    # With a checkpoint in between, they are taken for lost.
    tell.after_report(None, [NEW])
    assert retry.make_decision(VANISHED) is RETRY
    assert tell.memory.parts == 4


@pytest.mark.usefixtures("told")
def test_nodes_that_are_lost_twice_dont(tmp_path: Path) -> None:
    retry, tell = policy(2, str(tmp_path), recipe=SIX_IMAGES)
    tell.after_worker_group_start([1, 2])
    assert decisions(retry, LOST, 3) == [RETRY, RETRY, RAISE]
    assert tell.memory == MemoryUse(parts=1, loader_workers=0)


@pytest.mark.usefixtures("told")
def test_a_storage_that_cant_be_written_doesnt_keep_a_trial_retrying(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    retry, tell = policy(2, f"{tmp_path}/file", recipe=SIX_IMAGES)
    tell.after_worker_group_start([1, 2])
    assert decisions(retry, out_of("GPU"), 3) == [RETRY, RETRY, RAISE]
    assert tell.memory.parts == 1


def test_waiting_for_resources_is_no_failure() -> None:
    error = ControllerError(WorkerGroupStartupTimeoutError(num_workers=2))
    assert decisions(policy(1)[0], error, 20) == [RETRY] * 20


def test_other_errors_of_the_controller_are_final() -> None:
    assert policy()[0].make_decision(ControllerError(OSError("disk full"))) is RAISE


def test_the_reason_of_a_lost_worker_is_its_own_and_one_line() -> None:
    error = WorkerGroupError("", {0: WorkerHealthCheckFailedError("failed", RayActorError(None, "gone\nfor good"))})
    assert training_failure(error).reason.startswith("worker 0: RayActorError: gone")
    assert "\n" not in training_failure(error).reason
