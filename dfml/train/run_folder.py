"""The folder of a run of `python -m dfml.train`, from which the same command resumes.

run.json                    the run's recipe, data set and protocol
epochs.jsonl                the metrics of each epoch
epoch_0007/                 the training state after the last finished epoch
epoch_0007_step_00002000/   the training state within the next epoch
best/                       the model of the best epoch, as `dfml.load` reads it
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dfml.errors import InvalidInput
from dfml.saved_model import CONFIG, save_model
from dfml.task import EpochMetrics
from dfml.train.training import Training

RUN = "run.json"
LOG = "epochs.jsonl"


class RunFolder:
    """Store a run's state after each epoch. Every step is atomic: a kill loses one epoch at most.

    Args:
        root: the folder; created at the first checkpoint.
        run: the description of the run in JSON values, with its recipe under "recipe".

    Raises:
        InvalidInput: the folder holds another run; the message names the first difference.
    """

    def __init__(self, root: Path, run: dict[str, Any]) -> None:
        self.root = root
        self.best = root / "best"
        self._run = run
        if not (root / RUN).is_file():
            return
        before, now = _flat(json.loads((root / RUN).read_text(encoding="utf-8"))), _flat(run)
        if changed := [name for name in now if before.get(name) != now[name]]:
            name = changed[0]
            raise InvalidInput(
                f"{root} holds a run with {name} = {before.get(name)!r}, now it is {now[name]!r}; "
                "give the earlier value to resume, or name another --out"
            )

    def last(self) -> Path | None:
        """Return the folder that `Training.load` resumes from; None before the first checkpoint."""
        return max(self._states(), default=None)

    def _states(self) -> list[Path]:
        return [path for path in self.root.glob("epoch_*") if path.is_dir()]

    def save_mid_epoch(self, training: Training) -> None:
        """Store the training state within the current epoch, then delete older states."""
        assert training.mid_epoch is not None
        self.root.mkdir(parents=True, exist_ok=True)
        _write(self.root / RUN, self._run)
        self._keep_state(training, f"epoch_{training.epoch:04d}_step_{training.mid_epoch.step:08d}")

    def _keep_state(self, training: Training, name: str) -> None:
        older = self._states()
        partial = _emptied(self.root / "epoch.partial")
        training.save(partial)
        partial.rename(self.root / name)
        for folder in older:
            shutil.rmtree(folder)

    def keep(self, training: Training) -> None:
        """Store the finished epoch's metrics, model (if best) and state; delete older states."""
        metrics = training.metrics
        self.root.mkdir(parents=True, exist_ok=True)
        _write(self.root / RUN, self._run)
        if metrics["best_epoch"] == training.epoch:
            partial = _emptied(self.root / "best.partial")
            save_model(partial, training.model, {**self._run, "metrics": metrics, "trained_in": training.precision})
            shutil.rmtree(self.best, ignore_errors=True)
            partial.rename(self.best)
        self._log(metrics)
        self._keep_state(training, f"epoch_{training.epoch:04d}")

    def _log(self, metrics: EpochMetrics) -> None:
        """Append the epoch's line, replacing one that a killed run may have left."""
        log = self.root / LOG
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        earlier = [line for line in lines if json.loads(line)["epoch"] < metrics["epoch"]]
        _write_text(log, "\n".join([*earlier, json.dumps(metrics)]) + "\n")

    def best_metrics(self) -> EpochMetrics:
        """Return the metrics of the epoch whose model is in `best/`."""
        metrics: EpochMetrics = json.loads((self.best / CONFIG).read_text(encoding="utf-8"))["metrics"]
        return metrics

    def add_to_best(self, facts: dict[str, Any]) -> None:
        """Add facts to the `config.json` in `best/`."""
        config = json.loads((self.best / CONFIG).read_text(encoding="utf-8"))
        _write(self.best / CONFIG, {**config, **facts})


def _flat(run: dict[str, Any]) -> dict[str, Any]:
    return {**run["recipe"], **{name: value for name, value in run.items() if name != "recipe"}}


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _write(path: Path, content: dict[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)
