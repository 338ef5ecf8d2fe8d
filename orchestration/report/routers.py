"""The winner's routers: the loads of their sub-blocks, and their choices by epoch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from orchestration.report.results import Results
from orchestration.report.style import ACCENT, INK, MAIN, SERIES, WRONG, Chart, scale
from orchestration.sweep_folder.records import TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

READABLE = 30  # with at most this many routers, each cell shows its number


class Loads(NamedTuple):
    """The loads of a run's routers after an epoch.

    Attributes:
        of: the run, in words.
        record: the run's record.
        epoch: the epoch.
        names: the routers' names, in the order of the network (R,).
        share: the share of each router's tokens through each sub-block (R, K).
    """

    of: str
    record: TrialRecord
    epoch: int
    names: list[str]
    share: np.ndarray

    @property
    def entropy(self) -> np.ndarray:
        """Return the entropy of each router's loads, 0 (one sub-block) to 1 (even) (R,)."""
        return load_entropy(self.share)

    @property
    def collapsed(self) -> np.ndarray:
        """Return which routers send nearly all their tokens to one sub-block (R,)."""
        from dfml.telemetry import COLLAPSED  # imports torch

        return self.share.max(axis=1) > COLLAPSED


def load_entropy(share: np.ndarray) -> np.ndarray:
    """Return −Σ_k s_k ln s_k / ln K of each row of (R, K), K at least 2."""
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.abs((share * logs).sum(axis=1)) / math.log(share.shape[1])


def loads_in(metrics: dict[str, Any]) -> np.ndarray:
    """Return an epoch's loads (R, K); (0, 0) if its metrics have none."""
    return np.array(metrics["router_load"]) if "router_load" in metrics else np.zeros((0, 0))


def winners_loads(results: Results) -> Loads | None:
    """Return the loads of the kept model at its last epoch.

    If its run has none, return the winning trial's at its best epoch; None without routers.
    """
    won = results.won
    kept = [
        (f"the winner retrained with seed {run.recipe.seed}", run, results.winner_epochs) for run in results.runs[:1]
    ]
    for of, record, epoch in [*kept, (f"trial {won.number}, the winner", won, won.best_epoch)]:
        for metrics in record.epochs:
            share = loads_in(metrics)
            if metrics["epoch"] == epoch and share.shape[1] > 1:
                return Loads(of, record, epoch, _names(results.router_names), share)
    return None


def _names(router_names: list[str]) -> list[str]:
    """Return readable names, such as "block 3, attention" for "3.attn_router"."""
    parts = {"attn_router": ", attention", "mlp_router": ", MLP", "router": ""}
    return [f"block {block}{parts[part]}" for block, part in (name.split(".") for name in router_names)]


def router_load(results: Results) -> Chart:
    """Draw a heat map of the loads, and their entropy next to it."""
    name, title = "router_load", "Load of the winner's routers"
    loads = winners_loads(results)
    if loads is None:
        return Chart(
            name,
            title,
            "Not shown: the winner's routers have no choice (one sub-block per block, or a routed_weight of 0).",
        )
    from matplotlib.figure import Figure

    num_routers, num_sub_blocks = loads.share.shape
    figure = Figure(figsize=(9, 1.2 + 0.24 * min(num_routers, 60)))
    heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    image = heat.imshow(loads.share, cmap=scale(), vmin=0, vmax=1, aspect="auto")
    heat.grid(False)
    heat.set_xticks(range(num_sub_blocks), [str(k) for k in range(num_sub_blocks)])
    heat.set_xlabel("sub-block")
    heat.set_yticks(range(num_routers), loads.names, fontsize=7.5)
    if num_routers <= READABLE:
        for (r, k), load in np.ndenumerate(loads.share):
            color = "white" if load > 0.45 else INK
            heat.text(k, r, f"{load:.2f}", ha="center", va="center", fontsize=7, color=color)
    figure.colorbar(image, ax=heat, label="share of the router's tokens", fraction=0.05, pad=0.02)
    colors = np.where(loads.collapsed, WRONG, MAIN)
    bars.barh(range(num_routers), loads.entropy, color=colors, height=0.7)
    bars.set_xlim(0, 1.02)
    bars.set_xlabel("entropy of the loads (1: even)")
    bars.tick_params(axis="y", length=0, labelleft=False)
    bars.grid(False, axis="y")
    for r in np.flatnonzero(loads.collapsed):
        bars.text(loads.entropy[r] + 0.02, r, "collapsed", va="center", fontsize=7, color=WRONG)
    count = int(loads.collapsed.sum())
    caption = (
        f"Loads of {loads.of}, after epoch {loads.epoch}: the share of tokens that each of the {num_routers} routers, "
        f"from input to output, sent through each sub-block during that epoch. {_collapsed(count, num_routers)}"
    )
    return Chart(name, title, caption, figure, "router_load.csv")


def _collapsed(count: int, num_routers: int) -> str:
    from dfml.telemetry import COLLAPSED  # imports torch

    sent = f"sent more than {COLLAPSED:.0%} of the tokens through one sub-block"
    if count == 0:
        return f"None {sent}."
    return (
        f"{count} of {num_routers} have collapsed (red): they {sent}. "
        "A higher balance_weight in the recipe evens the load."
    )


def router_choices(results: Results) -> Chart:
    """Draw how certain the routers' choices were and how many changed, by epoch."""
    name, title = "router_choices", "Choices of the winner's routers, by epoch"
    loads = winners_loads(results)
    if loads is None:
        return Chart(name, title, "Not shown, for the same reason.")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.2))
    axes = figure.subplots()
    runs = [(results.won, "-")] + ([(loads.record, "--")] if loads.record is not results.won else [])
    for record, line in runs:
        _lines(axes, record, line, "" if record is results.won else ", retrained")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    caption = (
        "Entropy of choice: the entropy of the routers' probabilities, mean over tokens and routers; 0 is certain, 1 "
        "undecided. Entropy of load: the entropy of the sub-blocks' shares of tokens, mean over routers; 1 is even. "
        "Switched: the share of tokens, of a fixed set of images, whose sub-block differs from the one at the start of "
        "the epoch. Solid: the trial; dashed: retrained on all training classes."
    )
    return Chart(name, title, caption, figure, "router_choices.csv")


def choices_of(record: TrialRecord) -> list[dict[str, float]]:
    """Return one row per epoch with shares and entropies between 0 and 1."""
    rows = []
    for metrics in record.epochs:
        share = loads_in(metrics)
        if share.shape[1] > 1:
            rows.append(
                {
                    "epoch": metrics["epoch"],
                    "entropy of choice": metrics["router_entropy"],
                    "entropy of load": float(load_entropy(share).mean()),
                    "switched": metrics["router_switched"],
                    "collapsed": metrics["routers_collapsed"] / len(share),
                }
            )
    return rows


def _lines(axes: Axes, record: TrialRecord, line: str, suffix: str) -> None:
    rows = choices_of(record)
    colors = {"entropy of choice": MAIN, "entropy of load": SERIES[2], "switched": SERIES[1], "collapsed": ACCENT}
    for what, color in colors.items():
        label = f"{'share of routers collapsed' if what == 'collapsed' else what}{suffix}"
        epochs, values = [row["epoch"] for row in rows], [row[what] for row in rows]
        axes.plot(
            epochs, values, line, marker="o", markersize=3, color=color, label=label, gid=f"{record.folder} {what}"
        )
