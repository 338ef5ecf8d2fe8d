"""Weights & Biases: online, offline or off; an unreachable server doesn't end a sweep."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from dfml.errors import InvalidInput
from orchestration.callbacks import wandb_runs
from orchestration.callbacks.wandb_mode import mode_for
from orchestration.callbacks.wandb_runs import WandbRuns
from orchestration.sweep_folder.records import TrialRecord
from tests.plans import plan_of

KEY = "0123456789abcdef" * 2 + "01234567"  # has the form of a key, but isn't one


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Simulate a user without a key."""
    wandb.teardown()  # wandb reads the environment only once
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield
    wandb.teardown()


def test_without_a_key_it_is_offline() -> None:
    assert mode_for(None) == "offline"
    with pytest.raises(InvalidInput, match=r"wandb login.*WANDB_API_KEY"):
        mode_for("online")


def test_with_a_key_it_is_online_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert mode_for(None) == mode_for("online") == "online"
    assert mode_for("offline") == "offline"
    assert mode_for("off") == "off"
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert mode_for(None) == "offline"
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode_for(None) == "off"


def test_a_key_that_wandb_login_has_left_is_found(tmp_path: Path) -> None:
    host = str(wandb.Settings().base_url).split("://")[1]
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    netrc.chmod(0o600)
    assert mode_for(None) == "online"


class Printed:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def print(self, text: str, style: str = "") -> None:
        self.lines.append(text)


@pytest.mark.integration
def test_a_server_that_is_away_is_said_once_and_ends_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as held:  # a port without a listener
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{held.getsockname()[1]}")
        monkeypatch.setattr(wandb_runs, "RUN_TIMEOUT_SECONDS", 2.0)
        console: Any = Printed()
        plan = plan_of()
        with WandbRuns(plan, str(tmp_path), "online", console) as runs:
            for number in range(2):
                record = TrialRecord(number=number, parameters={}, recipe=plan.defaults())
                runs.trial_started(record)
                record.epochs.append({"epoch": 1, "loss": 1.0})
                runs.epoch_ended(record, 1)
                record.state = "finished"
                runs.trial_ended(record)
    assert len(console.lines) == 1
    assert "the sweep continues without it" in console.lines[0]
    assert KEY not in console.lines[0]


@pytest.mark.integration
def test_a_trial_that_the_spent_budget_kept_from_resuming_gets_its_end(tmp_path: Path) -> None:
    console: Any = Printed()
    plan = plan_of()
    record = TrialRecord(number=3, parameters={}, recipe=plan.defaults(), state="stopped", reason="the budget is spent")
    with WandbRuns(plan, str(tmp_path), "offline", console) as runs:
        runs.trial_ended(record)
    (file,) = (tmp_path / "wandb").glob("offline-run-*-003/*.wandb")
    assert b"the budget is spent" in file.read_bytes()
    assert console.lines == []
