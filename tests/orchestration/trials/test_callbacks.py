"""The callbacks that Tune calls; if one of them raised, Tune would end all trials."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestration.callback import SweepCallback
from orchestration.cluster.interruption import Interruption
from orchestration.cluster.resources import TrialResources
from orchestration.job import config_of
from orchestration.messages import EpochReport, WorkersEnded, WorkersStarted, result_of
from orchestration.sweep_folder.records import TrialRecord, load_record
from orchestration.trials import placement as watch_module
from orchestration.trials import recorder as recorder_module
from orchestration.trials.placement import PlacementMonitor
from orchestration.trials.recorder import Recorder
from tests.plans import job_of

TRIAL: Any = SimpleNamespace(
    trial_id="a",
    config=config_of(job_of(workers=2)),
    pickled_error_file=None,
    error_file=None,
)


class Printed(SweepCallback):
    """A console that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def print(self, text: str, style: str = "") -> None:
        self.lines.append(text)

    def trial_waits(self, record: TrialRecord, reason: str) -> None:
        self.lines.append(reason)


def metrics(epoch: int) -> dict[str, Any]:
    return result_of(EpochReport({"epoch": epoch, "loss": 1.0}, False, 0))


class FlakyFolder:
    """A sweep's folder that can be replaced by a file and restored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def go(self) -> None:
        if self.folder.exists():
            self.folder.rename(self.folder.with_name("kept"))
        self.folder.touch()

    def come(self) -> None:
        self.folder.unlink()
        if (kept := self.folder.with_name("kept")).exists():
            kept.rename(self.folder)


def recorder_of(folder: FlakyFolder, console: Any) -> Recorder:
    return Recorder(str(folder.folder), [], console, Interruption(), None, [console])


def test_records_wait_while_the_storage_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console, folder = Printed(), FlakyFolder(tmp_path / "sweep")
    recorder = recorder_of(folder, console)
    recorder.on_trial_start(0, [], TRIAL)
    folder.go()
    recorder.on_trial_result(0, [], TRIAL, metrics(1))
    recorder.on_trial_result(0, [], TRIAL, metrics(2))
    recorder.on_trial_complete(0, [], TRIAL)
    assert "records can't be saved" in console.lines[0]
    folder.come()
    found = load_record(str(folder.folder), "000")
    assert found is not None
    assert found.epochs == []
    recorder.on_step_begin(0, [])
    assert load_record(str(folder.folder), "000") == found  # saved again only later
    monkeypatch.setattr(recorder_module, "RETRY_SAVE_SECONDS", 0.0)
    recorder.on_step_begin(0, [])
    found = load_record(str(folder.folder), "000")
    assert found is not None
    assert (len(found.epochs), found.state) == (2, "finished")


def test_records_that_cant_be_saved_in_the_end_are_an_error(tmp_path: Path) -> None:
    folder = FlakyFolder(tmp_path / "sweep")
    recorder = recorder_of(folder, Printed())
    folder.go()
    recorder.on_trial_start(0, [], TRIAL)
    with pytest.raises(OSError, match="sweep"):
        recorder.finish()
    folder.come()
    recorder.finish()
    assert load_record(str(folder.folder), "000") is not None


def test_the_record_has_the_parts_of_a_batch(tmp_path: Path) -> None:
    recorder = recorder_of(FlakyFolder(tmp_path), Printed())
    recorder.on_trial_start(0, [], TRIAL)
    record = recorder.record_of(TRIAL)
    assert (record.parts, record.loader_workers, record.restarts) == (None, None, 0)
    for message in (WorkersStarted(2, None, parts=1, loader_workers=4), WorkersStarted(2, "why", 2, 4)):
        recorder.on_trial_result(0, [], TRIAL, result_of(message))
    assert (record.parts, record.loader_workers, record.restarts) == (2, 4, 1)


@pytest.mark.parametrize(("gpus", "hours"), [(0, 0.0), (1, 2.0), (0.25, 0.5)])
def test_a_worker_counts_the_hours_of_its_part_of_a_gpu(gpus: float, hours: float, tmp_path: Path) -> None:
    recorder = recorder_of(FlakyFolder(tmp_path / "sweep"), Printed())
    trial: Any = SimpleNamespace(**{**vars(TRIAL), "config": config_of(job_of(workers=2, cpus=3, gpus=gpus))})
    recorder.on_trial_start(0, [], trial)
    recorder.on_trial_result(0, [], trial, result_of(WorkersEnded(2 * 3600.0)))
    record = recorder.record_of(trial)
    assert (record.cpu_hours, record.gpu_hours) == (6.0, hours)


def monitor(console: Any) -> PlacementMonitor:
    resources = TrialResources(workers=2, cpus=1, gpus=0, concurrent=1, min_workers=2)
    return PlacementMonitor(resources, console, lambda trial: job_of().record(), [console])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watch_module, "remove_orphans", lambda: 0)
    return now


def test_a_trial_that_lost_its_workers_and_gets_no_others_is_explained(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "waiting_for", lambda share: "no room")
    console: Any = Printed()
    watch = monitor(console)

    def after(seconds: float) -> int:
        clock[0] += seconds
        watch.on_step_begin(0, [])
        return len(console.lines)

    watch.on_trial_start(0, [], TRIAL)
    watch.on_trial_result(0, [], TRIAL, result_of(WorkersStarted(2, None)))
    assert after(100) == 0  # the trial runs
    watch.on_trial_result(0, [], TRIAL, result_of(WorkersEnded(1.0)))
    assert after(10) == 0
    assert after(20) == 1
    assert after(100) == 1  # reported already
    assert after(600) == 2  # reported again after ten minutes
    watch.on_trial_complete(0, [], TRIAL)
    assert after(1000) == 2


def test_a_head_that_doesnt_answer_ends_nothing(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise ConnectionError("GCS")

    monkeypatch.setattr(watch_module, "waiting_for", fail)
    monkeypatch.setattr(watch_module, "remove_orphans", fail)
    console: Any = Printed()
    watch = monitor(console)
    watch.on_trial_start(0, [], TRIAL)
    for _ in range(2):
        clock[0] += 100
        watch.on_step_begin(0, [])
    assert len(console.lines) == 1
    assert "ConnectionError: GCS" in console.lines[0]
