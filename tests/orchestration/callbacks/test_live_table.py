"""The live table of a sweep on a terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console as RichConsole

from dfml.recipe import Recipe
from orchestration.callbacks.console import Console
from orchestration.callbacks.live_table import LiveTable
from orchestration.cluster.interruption import Interruption
from orchestration.job import config_of
from orchestration.messages import WorkersStarted, result_of
from orchestration.sweep_folder.records import TrialRecord
from orchestration.trials.recorder import Recorder
from tests.plans import job_of

RECIPE = Recipe(backbone="vit_tiny_patch16_224", weights="random")


def metrics(epoch: int, score: float, best: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": 3.0,
        "score": score,
        "best_score": best,
        "train_seconds": 50.0,
        "validation_seconds": 10.0,
    }


def record(number: int, scores: list[float], state: Any = "running", kind: Any = "trial") -> TrialRecord:
    epochs = [metrics(i + 1, score, max(scores[: i + 1])) for i, score in enumerate(scores)]
    return TrialRecord(kind=kind, number=number, parameters={}, recipe=RECIPE, epochs=epochs, state=state)


def lines(table: LiveTable, width: int = 120) -> list[str]:
    out = RichConsole(width=width, record=True, file=io.StringIO())
    out.print(table)
    return [line.strip() for line in out.export_text().splitlines() if line.strip()]


def test_running_trials_and_the_best_of_those_that_ended_are_shown() -> None:
    table = LiveTable(trials=20, scored_on="validation")
    for number in range(8):
        table.follow(record(number, [0.1 * number, 0.05], "stopped" if number % 2 else "finished"), last=9)
    table.follow(record(8, [0.2, 0.3, 0.25]), last=9)
    table.workers_started(record(8, []))
    table.follow(record(9, []))
    found = lines(table)
    assert "2 running  ·  8 of 20 ended (4 finished, 4 stopped early)" in found[0]
    numbers = [line.split()[0] for line in found[1:] if line.split()[0].isdigit()]
    assert numbers == ["8", "9", "7", "6", "5", "4", "3"]
    running = next(line for line in found[1:] if line.startswith("8 ")).split()
    # Six epochs of a minute are left.
    assert running[1:8] == ["running", "3/9", "0.250", "0.300", "0:06:00", "3.00", "0"]
    assert "starts" in next(line for line in found[1:] if line.startswith("9 "))


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_loses_whole_columns_and_no_digits(width: int) -> None:
    table = LiveTable(trials=2, scored_on="validation")
    table.follow(record(0, [0.25] * 40), last=400)
    table.workers_started(record(0, []))
    found = lines(table, width)
    row = next(line for line in found if line.startswith("0 ")).split()
    whole = ["0", "running", "40/400", "0.250", "0.250", "6:00:00", "3.00", "0"]
    shown = [cell for cell in row if cell in whole]
    assert shown == whole[: len(shown)]
    assert len(shown) >= 6
    assert len([line for line in found if line.startswith("0 ")]) == 1


def test_the_winners_time_left_by_protocol_paper_is_none() -> None:
    """The winner's only epoch is the trial's best one."""
    table = LiveTable(trials=1, scored_on="test")
    scoring = record(0, [0.5], kind="winner")
    scoring.epochs[0]["epoch"] = 40
    table.follow(scoring, last=40)
    assert "0:00:00" in next(line for line in lines(table) if line.startswith("winner"))


def test_a_trial_that_waits_says_so_until_its_workers_run(tmp_path: Path) -> None:
    """Tune's results reach the table through the recorder."""
    console = Console(1)
    told: Any = SimpleNamespace(trial_id="a", config=config_of(job_of(recipe=RECIPE, workers=2)))
    recorder = Recorder(str(tmp_path), [], console, Interruption(), None, [console])
    recorder.on_trial_start(0, [], told)
    console.trial_waits(recorder.record_of(told), "no room")
    assert any("waits" in line for line in lines(console.live_table))
    recorder.on_trial_result(0, [], told, result_of(WorkersStarted(2, None)))
    assert any("running" in line for line in lines(console.live_table)[1:])
    assert not any("waits" in line for line in lines(console.live_table))


SCRIPT = f"""
import os
os.environ.pop("CI", None)
from orchestration.callbacks.console import Console
from orchestration.job import config_of
from orchestration.callbacks.live_table import LiveTable
from orchestration.messages import WorkersStarted, result_of
from orchestration.sweep_folder.records import TrialRecord
console = Console(1)
record = TrialRecord(number=0, parameters={{}}, recipe={RECIPE.model_dump(mode="json")!r})
with console.live():
    console.trial_started(record)
    record.epochs.append({metrics(1, 0.5, 0.5)!r})
    console.epoch_ended(record, 3)
    print("a library's remark")
    record.state = "finished"
    console.trial_ended(record)
console.print("the end")
"""


def printed(terminal: bool) -> str:
    if not terminal:
        return subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    master, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=end, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(end)
    found: list[bytes] = []

    def read() -> None:
        while True:
            try:
                found.append(os.read(master, 4096))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait(timeout=60) == 0
    reader.join()
    os.close(master)
    return b"".join(found).decode()


def test_a_terminal_gets_one_table_and_a_pipe_a_line_for_each_event() -> None:
    live, piped = printed(terminal=True), printed(terminal=False)
    assert "1 of 1 ended (1 finished)" in live
    assert "epoch 1/3" not in live  # not as a separate line
    assert "epoch 1/3" in piped
    assert "\x1b" not in piped
    assert "ended (" not in piped
    for text in (live, piped):
        assert "a library's remark" in text
        assert "the end" in text
