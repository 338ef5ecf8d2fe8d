"""The table that a terminal shows while a sweep runs."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from typing import Any

from rich.console import Console as RichConsole

from dfml.recipe import Recipe
from orchestration.live_table import LiveTable
from orchestration.records import TrialRecord

RECIPE = Recipe(backbone="vit_tiny_patch16_224", weights="random").model_dump(mode="json")


def figures(epoch: int, score: float, best: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": 3.0,
        "score": score,
        "best_score": best,
        "train_seconds": 50.0,
        "validation_seconds": 10.0,
    }


def record(number: int, scores: list[float], state: Any = "running") -> TrialRecord:
    epochs = [figures(i + 1, score, max(scores[: i + 1])) for i, score in enumerate(scores)]
    return TrialRecord(number=number, parameters={}, recipe=RECIPE, epochs=epochs, state=state)


def lines(table: LiveTable) -> list[str]:
    out = RichConsole(width=120, record=True, file=io.StringIO())
    out.print(table)
    return [line.strip() for line in out.export_text().splitlines() if line.strip()]


def test_running_trials_and_the_best_of_those_that_ended_are_shown() -> None:
    table = LiveTable(trials=20, scored_on="validation")
    for number in range(8):
        table.follow(record(number, [0.1 * number, 0.05], "stopped" if number % 2 else "finished"), last=9)
    table.follow(record(8, [0.2, 0.3, 0.25]), last=9)
    table.follow(record(9, []))
    found = lines(table)
    numbers = [line.split()[0] for line in found[:-1] if line.split()[0].isdigit()]
    assert numbers == ["8", "9", "7", "6", "5", "4", "3"]
    running = next(line for line in found if line.startswith("8 ")).split()
    assert running[-6:] == ["running", "3/9", "3.00", "0.250", "0.300", "0:06:00"]  # six epochs of a minute are left
    assert "starts" in next(line for line in found if line.startswith("9 "))
    assert "2 running  ·  8 of 20 ended (4 finished, 4 stopped early)" in found[-1]


def test_a_trial_that_waits_says_so_until_it_goes_on() -> None:
    table = LiveTable(trials=1, scored_on="validation")
    waiting = record(0, [0.1])
    table.follow(waiting, last=3)
    table.waits(0)
    assert any("waits" in line for line in lines(table))
    table.follow(waiting, last=3)
    assert not any("waits" in line for line in lines(table))


SCRIPT = f"""
import os
os.environ.pop("CI", None)
from orchestration.console import Console
from orchestration.records import TrialRecord
console = Console(1)
record = TrialRecord(number=0, parameters={{}}, recipe={RECIPE!r})
with console.live():
    console.started(record)
    record.epochs.append({figures(1, 0.5, 0.5)!r})
    console.epoch(record, 3)
    print("a library's remark")
    record.state = "finished"
    console.ended(record)
console.say("the end")
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
    assert "epoch 1/3" not in live  # as a line of its own
    assert "epoch 1/3" in piped
    assert "\x1b" not in piped
    assert "ended (" not in piped
    for text in (live, piped):
        assert "a library's remark" in text
        assert "the end" in text
