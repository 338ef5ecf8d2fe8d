"""What Tune calls in each step of a sweep: records that are saved, trials that wait. None of it may raise, or Tune ends all trials."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestration.cluster.share import Share
from orchestration.interruption import Interruption
from orchestration.records import load_record
from orchestration.reports import FIGURES, RESUMED, WORKERS
from orchestration.trials import recorder as recorder_module
from orchestration.trials import watch as watch_module
from orchestration.trials.recorder import Recorder
from orchestration.trials.watch import Watch

TRIAL: Any = SimpleNamespace(
    trial_id="a",
    config={"number": 0, "parameters": {}, "recipe": {}, "job": {"epochs": 2, "workers": 2}},
    pickled_error_file=None,
    error_file=None,
)


class Printed:
    """A console that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str, style: str = "") -> None:
        self.lines.append(text)

    def waits(self, number: int, why: str) -> None:
        self.lines.append(why)

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def figures(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "loss": 1.0, FIGURES: ["epoch", "loss"], RESUMED: False}


class Place:
    """A sweep's folder that can go away and come back: a file stands in its place meanwhile."""

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


def recorder_of(place: Place, console: Any) -> Recorder:
    return Recorder(str(place.folder), [], console, Interruption(), None, lambda record: None)


def test_records_wait_while_the_storage_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console, place = Printed(), Place(tmp_path / "sweep")
    recorder = recorder_of(place, console)
    recorder.on_trial_start(0, [], TRIAL)
    place.go()
    recorder.on_trial_result(0, [], TRIAL, figures(1))
    recorder.on_trial_result(0, [], TRIAL, figures(2))
    recorder.on_trial_complete(0, [], TRIAL)
    assert "records can't be saved" in console.lines[0]
    place.come()
    found = load_record(str(place.folder), "000")
    assert found is not None
    assert found.epochs == []
    recorder.on_step_begin(0, [])
    assert load_record(str(place.folder), "000") == found  # not so soon
    monkeypatch.setattr(recorder_module, "AGAIN", 0.0)
    recorder.on_step_begin(0, [])
    found = load_record(str(place.folder), "000")
    assert found is not None
    assert (len(found.epochs), found.state) == (2, "finished")


def test_records_that_cant_be_saved_in_the_end_are_an_error(tmp_path: Path) -> None:
    place = Place(tmp_path / "sweep")
    recorder = recorder_of(place, Printed())
    place.go()
    recorder.on_trial_start(0, [], TRIAL)
    with pytest.raises(OSError, match="sweep"):
        recorder.finish()
    place.come()
    recorder.finish()
    assert load_record(str(place.folder), "000") is not None


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
    watch = Watch(Share(workers=2, cpus=1, gpu=False, concurrent=1, min_workers=2), console)

    def after(seconds: float) -> int:
        clock[0] += seconds
        watch.on_step_begin(0, [])
        return len(console.lines)

    watch.on_trial_start(0, [], TRIAL)
    watch.on_trial_result(0, [], TRIAL, {WORKERS: 2})
    assert after(100) == 0  # it runs
    watch.on_trial_result(0, [], TRIAL, {WORKERS: 0})
    assert after(10) == 0
    assert after(20) == 1
    assert after(100) == 1  # said already
    assert after(600) == 2  # but for long
    watch.on_trial_complete(0, [], TRIAL)
    assert after(1000) == 2


def test_a_head_that_doesnt_answer_ends_nothing(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise ConnectionError("GCS")

    monkeypatch.setattr(watch_module, "waiting_for", fail)
    monkeypatch.setattr(watch_module, "remove_orphans", fail)
    console: Any = Printed()
    watch = Watch(Share(workers=2, cpus=1, gpu=False, concurrent=1, min_workers=2), console)
    watch.on_trial_start(0, [], TRIAL)
    for _ in range(2):
        clock[0] += 100
        watch.on_step_begin(0, [])
    assert len(console.lines) == 1
    assert "ConnectionError: GCS" in console.lines[0]
