"""The style of the report's charts: colors, fonts and resolution."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
MAIN, ACCENT, STOPPED = "#2f6690", "#d1495b", "#9aa5b1"  # a trial; the winner; a stopped trial
# Colors of lines that have names.
SERIES = (
    "#2f6690",
    "#e09f3e",
    "#3a7d44",
    "#8f5d9c",
    "#17808a",
    "#b56576",
    "#6c757d",
    "#a17c3b",
)
# Always used with a mark as well, for readers who can't distinguish these colors.
RIGHT, WRONG = "#2a9d4a", "#d1362f"
DPI = 180  # twice the resolution on the page

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.constrained_layout.use": True,
}


class Chart(NamedTuple):
    """A chart of the report, or the reason why there is none.

    Attributes:
        name: the file's name, without extension.
        title: the title above the chart.
        caption: the caption below it, or the reason why it isn't shown.
        figure: the matplotlib figure; None if it isn't shown.
        numbers: the name of the CSV file with the chart's numbers.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None = None
    numbers: str = ""


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this style without a window; then restore settings and close pyplot's figures."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("Agg")
    before = set(pyplot.get_fignums())
    with matplotlib.rc_context(STYLE):
        try:
            yield
        finally:
            for number in set(pyplot.get_fignums()) - before:
                pyplot.close(number)


@contextmanager
def of_optuna() -> Iterator[None]:
    """Undo the style sheet that Optuna's charts set, and silence three expected warnings.

    The warnings: experimental API, minimized target, and few trials, which the captions state.
    """
    import matplotlib
    from optuna.exceptions import ExperimentalWarning

    expected = "Some regimes for parameter|PedAnovaImportanceEvaluator computes the importances"
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", expected, UserWarning)
        yield


def scale() -> Colormap:
    """Return the color map from light (low, still visible on white) to dark (high)."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("scale", ["#c3cfdb", "#7ea6c9", "#2f6690", "#102a43"])


def restyle(axes: Axes) -> None:
    """Apply this style to axes that another library has drawn."""
    titles: tuple[Literal["left", "center"], ...] = ("left", "center")
    for side in titles:
        axes.set_title("", loc=side)  # the page has the title above the chart
    axes.set_facecolor("white")
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=8)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9)
    for edge, spine in axes.spines.items():
        spine.set_color(FAINT)
        spine.set_visible(edge in ("left", "bottom"))


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.08, facecolor="white")
    return buffer.getvalue()
