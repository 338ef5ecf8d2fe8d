"""The folder of a run of `python -m dfml.train`, from which the same command goes on.

run.json        recipe, data set, protocol: what the run is
epochs.jsonl    each epoch's figures
epoch_0007/     what the run goes on from after its last finished epoch; epoch_0007_step_00002000/, within the next
best/           the model of the best epoch, as `dfml.load` reads it
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dfml.checkpoint import CONFIG, save_model
from dfml.errors import InvalidInput
from dfml.train.training import Training

RUN = "run.json"
LOG = "epochs.jsonl"


class RunFolder:
    """Keeps a run's state after each epoch; every step is whole or not at all, so that a kill loses one epoch at most.

    Args:
        root: the folder; made with the first epoch.
        run: what the run is, JSON values, its recipe under "recipe".

    Raises:
        InvalidInput: the folder holds another run; the first difference is named.
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
                f"{root} holds a run with {name} = {before.get(name)!r}, now it is {now[name]!r}: give it again as it was to go "
                "on, or name another --out"
            )

    def last(self) -> Path | None:
        """What `Training.load` goes on from; None before the first checkpoint."""
        return max(self._states(), default=None)

    def _states(self) -> list[Path]:
        return [path for path in self.root.glob("epoch_*") if path.is_dir()]

    def keep_unfinished(self, training: Training) -> None:
        """Store how far the epoch is that is under way; then drop what is older."""
        assert training.unfinished is not None
        self.root.mkdir(parents=True, exist_ok=True)
        _write(self.root / RUN, self._run)
        self._keep_state(training, f"epoch_{training.epoch:04d}_step_{training.unfinished.step:08d}")

    def _keep_state(self, training: Training, name: str) -> None:
        older = self._states()
        partial = _emptied(self.root / "epoch.partial")
        training.save(partial)
        partial.rename(self.root / name)
        for folder in older:
            shutil.rmtree(folder)

    def keep(self, training: Training) -> None:
        """Store the epoch just finished: its figures, the best model, and what the run goes on from; then drop what is older."""
        figures = training.figures
        self.root.mkdir(parents=True, exist_ok=True)
        _write(self.root / RUN, self._run)
        if figures["best_epoch"] == training.epoch:
            partial = _emptied(self.root / "best.partial")
            save_model(partial, training.model, {**self._run, "figures": figures})
            shutil.rmtree(self.best, ignore_errors=True)
            partial.rename(self.best)
        self._log(figures)
        self._keep_state(training, f"epoch_{training.epoch:04d}")

    def _log(self, figures: dict[str, float]) -> None:
        """Write the epoch's line behind those of the epochs before it; a kill may have left one of its own."""
        log = self.root / LOG
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        earlier = [line for line in lines if json.loads(line)["epoch"] < figures["epoch"]]
        _write_text(log, "\n".join([*earlier, json.dumps(figures)]) + "\n")

    def best_figures(self) -> dict[str, float]:
        """The figures of the epoch whose model is in `best/`."""
        figures: dict[str, float] = json.loads((self.best / CONFIG).read_text(encoding="utf-8"))["figures"]
        return figures

    def add_to_best(self, facts: dict[str, Any]) -> None:
        """More facts for the `config.json` in `best/`."""
        config = json.loads((self.best / CONFIG).read_text(encoding="utf-8"))
        _write(self.best / CONFIG, {**config, **facts})


def _flat(run: dict[str, Any]) -> dict[str, Any]:
    return {**run["recipe"], **{name: value for name, value in run.items() if name != "recipe"}}


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _write(place: Path, content: dict[str, Any]) -> None:
    _write_text(place, json.dumps(content, indent=1) + "\n")


def _write_text(place: Path, text: str) -> None:
    partial = place.with_name(place.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(place)
