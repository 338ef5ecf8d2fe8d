"""How the report's figures look: colours, type and resolution, in one place."""

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
MAIN, ACCENT, STOPPED = "#2f6690", "#d1495b", "#9aa5b1"  # a trial; what won; what was stopped early
SERIES = (
    "#2f6690",
    "#e09f3e",
    "#3a7d44",
    "#8f5d9c",
    "#17808a",
    "#b56576",
    "#6c757d",
    "#a17c3b",
)  # where lines have names
RIGHT, WRONG = "#2a9d4a", "#d1362f"  # always with a mark beside it, for those who can't tell them apart
DPI = 180  # twice what a page shows at

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
    """A figure of the report, or the reason why there is none.

    Attributes:
        name: of its file, without ending.
        title: above it.
        caption: below it: what it shows; or why it was left out.
        figure: None where it was left out.
        numbers: the CSV file that has what is drawn.
    """

    name: str
    title: str
    caption: str
    figure: Figure | None = None
    numbers: str = ""


@contextmanager
def styled() -> Iterator[None]:
    """In this style, without a window; matplotlib's settings are put back, and figures that pyplot holds are let go."""
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
    """For calls of Optuna's charts and importances: puts matplotlib's settings back, to which they add a style sheet of their own.

    They warn that they are experimental, as they have been since 2020, that a target is to be lowered, which it is, and of few trials,
    which the captions say.
    """
    import matplotlib
    from optuna.exceptions import ExperimentalWarning

    expected = "Some regimes for parameter|PedAnovaImportanceEvaluator computes the importances"
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", expected, UserWarning)
        yield


def scale() -> Colormap:
    """From low to high, dark where high; its low end can be seen on white."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("scale", ["#c3cfdb", "#7ea6c9", "#2f6690", "#102a43"])


def restyle(axes: Axes) -> None:
    """Give axes this style that another library has drawn in its own."""
    titles: tuple[Literal["left", "center"], ...] = ("left", "center")
    for side in titles:
        axes.set_title("", loc=side)  # stands above the figure on the page
    axes.set_facecolor("white")
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.tick_params(colors=INK, labelsize=8)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9)
    for place, spine in axes.spines.items():
        spine.set_color(FAINT)
        spine.set_visible(place in ("left", "bottom"))


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.08, facecolor="white")
    return buffer.getvalue()
