"""What the winner's routers did: the load of each sub-block, its entropy, and how surely they chose, epoch by epoch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from orchestration.records import TrialRecord, router_loads
from orchestration.results.style import ACCENT, INK, MAIN, SERIES, WRONG, Chart, scale
from orchestration.results.summary import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

READABLE = 30  # routers up to which each cell has its number


class Loads(NamedTuple):
    """The loads of a run's routers after an epoch.

    Attributes:
        of: the run, in words.
        record: of the run.
        epoch: the epoch.
        names: of the routers, in the order of the network (R,).
        share: of each router's tokens, through each sub-block (R, K).
    """

    of: str
    record: TrialRecord
    epoch: int
    names: list[str]
    share: np.ndarray

    @property
    def entropy(self) -> np.ndarray:
        """Of each router's loads, 0 (all through one sub-block) to 1 (evenly) (R,)."""
        return load_entropy(self.share)

    @property
    def collapsed(self) -> np.ndarray:
        """Which routers send nearly all their tokens one way (R,)."""
        from dfml.telemetry import COLLAPSED  # imports torch

        return self.share.max(axis=1) > COLLAPSED


def load_entropy(share: np.ndarray) -> np.ndarray:
    """−Σ_k s_k ln s_k / ln K of each row of (R, K), K at least 2."""
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.abs((share * logs).sum(axis=1)) / math.log(share.shape[1])


def loads_in(figures: dict[str, Any]) -> np.ndarray:
    """The loads (R, K) among an epoch's figures; (0, 0) where it has none."""
    return np.array(router_loads(figures)) if router_loads(figures) else np.zeros((0, 0))


def winners_loads(results: Results) -> Loads | None:
    """Of the model that is kept, as its training ended; of the trial at its best epoch where that model's run has none. None: no routers."""
    won = results.won
    best = int(won.epochs[-1].get("best_epoch", 0)) if won.epochs else 0
    kept = [
        (f"the winner retrained with seed {run.recipe['seed']}", run, results.winner_epochs) for run in results.runs[:1]
    ]
    for of, record, epoch in [*kept, (f"trial {won.number}, the winner", won, best)]:
        for figures in record.epochs:
            share = loads_in(figures)
            if figures["epoch"] == epoch and share.shape[1] > 1:
                return Loads(of, record, epoch, _names(results.routers, len(share)), share)
    return None


def _names(names: list[str], count: int) -> list[str]:
    """ "block 3, attention" for "3.attn_router"; their numbers where a sweep has no names."""
    if len(names) != count:
        return [f"router {number}" for number in range(count)]
    parts = {"attn_router": ", attention", "mlp_router": ", MLP", "router": ""}
    return [f"block {block}{parts[part]}" for block, part in (name.split(".") for name in names)]


def router_load(results: Results) -> Chart:
    """A heat map of the loads, and their entropy beside it."""
    name, title = "router_load", "Load of the winner's routers"
    loads = winners_loads(results)
    if loads is None:
        return Chart(
            name,
            title,
            "Left out: the winner's routers choose nothing (one sub-block a block, or a routed_weight of 0).",
        )
    from matplotlib.figure import Figure

    routers, sub_blocks = loads.share.shape
    figure = Figure(figsize=(9, 1.2 + 0.24 * min(routers, 60)))
    heat, bars = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    image = heat.imshow(loads.share, cmap=scale(), vmin=0, vmax=1, aspect="auto")
    heat.grid(False)
    heat.set_xticks(range(sub_blocks), [str(k) for k in range(sub_blocks)])
    heat.set_xlabel("sub-block")
    heat.set_yticks(range(routers), loads.names, fontsize=7.5)
    if routers <= READABLE:
        for (r, k), load in np.ndenumerate(loads.share):
            colour = "white" if load > 0.45 else INK
            heat.text(k, r, f"{load:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=heat, label="share of the router's tokens", fraction=0.05, pad=0.02)
    colours = np.where(loads.collapsed, WRONG, MAIN)
    bars.barh(range(routers), loads.entropy, color=colours, height=0.7)
    bars.set_xlim(0, 1.02)
    bars.set_xlabel("entropy of the loads (1: even)")
    bars.tick_params(axis="y", length=0, labelleft=False)
    bars.grid(False, axis="y")
    for r in np.flatnonzero(loads.collapsed):
        bars.text(loads.entropy[r] + 0.02, r, "collapsed", va="center", fontsize=7, color=WRONG)
    count = int(loads.collapsed.sum())
    caption = (
        f"Of {loads.of}, after epoch {loads.epoch}: where each of the {routers} routers, from the input down, sent its tokens during that epoch. "
        f"{_collapsed(count, routers)}"
    )
    return Chart(name, title, caption, figure, "router_load.csv")


def _collapsed(count: int, routers: int) -> str:
    from dfml.telemetry import COLLAPSED  # imports torch

    sent = f"sent more than {COLLAPSED:.0%} of them through one sub-block"
    if count == 0:
        return f"None {sent}."
    return (
        f"{count} of {routers} have collapsed (red), which is to say {sent}; balance_weight in the recipe is the remedy where the load is to be "
        "shared."
    )


def router_choices(results: Results) -> Chart:
    """How surely the routers chose, and whether they still changed, by epoch."""
    name, title = "router_choices", "How the winner's routers chose, epoch by epoch"
    loads = winners_loads(results)
    if loads is None:
        return Chart(name, title, "Left out, for the same reason.")
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
        "Entropy of choice: of the routers' probabilities, mean over tokens and routers; 0 is certain, 1 undecided. Entropy of load: of the shares "
        "that went through each sub-block, mean over routers; 1 is even. Switched: tokens of a fixed set of images that chose another "
        "sub-block than at the epoch's beginning. Solid: the trial; dashed: retrained on all training classes."
    )
    return Chart(name, title, caption, figure, "router_choices.csv")


def choices_of(record: TrialRecord) -> list[dict[str, float]]:
    """By epoch, each a share or an entropy between 0 and 1."""
    rows = []
    for figures in record.epochs:
        share = loads_in(figures)
        if share.shape[1] > 1:
            rows.append(
                {
                    "epoch": figures["epoch"],
                    "entropy of choice": figures["router_entropy"],
                    "entropy of load": float(load_entropy(share).mean()),
                    "switched": figures["router_switched"],
                    "collapsed": figures["routers_collapsed"] / len(share),
                }
            )
    return rows


def _lines(axes: Axes, record: TrialRecord, line: str, suffix: str) -> None:
    rows = choices_of(record)
    colours = {"entropy of choice": MAIN, "entropy of load": SERIES[2], "switched": SERIES[1], "collapsed": ACCENT}
    for what, colour in colours.items():
        label = f"{'share of routers collapsed' if what == 'collapsed' else what}{suffix}"
        epochs, values = [row["epoch"] for row in rows], [row[what] for row in rows]
        axes.plot(
            epochs, values, line, marker="o", markersize=3, color=colour, label=label, gid=f"{record.folder} {what}"
        )
