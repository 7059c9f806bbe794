"""Plot of training curves, and of the gains and losses per query."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmark.comparison.compare import ComparedRun, QueryGains
from benchmark.plots.style import PALETTE, plot_style, to_svg
from benchmark.utils.atomic import atomic_path, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png")
"""File formats of the plot."""
_DASHES = ("-", "--", ":", "-.")
"""Line styles; the next one is used whenever all colors are taken."""
_LEGEND_LETTERS = 110
"""Number of letters that fit into one line of the legend."""
_LOG_RATIO = 4
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes."""

    title: str
    lines: Mapping[str, NDArray[np.float64]]
    """(n, 2) points by the name of the run. A run without data has no line."""
    format_axes: Callable[["Axes"], None]
    """Sets scales, limits and labels after the lines are drawn."""

    def draw(self, axes: "Axes", line_styles: Mapping[str, Mapping[str, Any]]) -> None:
        """Draw into `axes`; `line_styles` holds matplotlib's keywords for the line of each run."""
        axes.set_title(self.title, loc="left", fontsize=10)
        for name, points in self.lines.items():
            axes.plot(*points.T, linewidth=1.8, **line_styles[name])
        self.format_axes(axes)


def plot_comparison(runs: Mapping[str, ComparedRun], gains: Mapping[str, QueryGains], target: Path) -> None:
    """Write a plot with a panel for the loss, and for mAP, MACs and gains per query if a run has them.

    Args:
        runs: The runs by name. The first is the reference.
        gains: Gains over the first run, of the runs whose queries can be paired with it.
        target: Path of the plot, which is written atomically as SVG or, if the suffix is .png, as PNG.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    line_styles: dict[str, dict[str, Any]] = {
        name: {"color": PALETTE[index % len(PALETTE)], "linestyle": _DASHES[index // len(PALETTE) % len(_DASHES)]}
        for index, name in enumerate(runs)
    }
    panels = [panel for panel in _panels(runs, gains) if panel.lines]
    rows = (len(panels) + 1) // 2
    with plot_style():
        layout = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12)
        figure = Figure(figsize=(10, 0.8 + 3 * rows), dpi=72, layout=layout)
        figure.legend(
            handles=[Line2D([], [], linewidth=2, label=name, **style) for name, style in line_styles.items()],
            loc="outside upper left",
            ncols=max(1, _LEGEND_LETTERS // (max(map(len, runs)) + 8)),
            frameon=False,
        )
        grid = figure.add_gridspec(rows, 2)
        for index, panel in enumerate(panels):
            row, column = divmod(index, 2)
            alone = index == len(panels) - 1 and column == 0
            panel.draw(figure.add_subplot(grid[row, :] if alone else grid[row, column]), line_styles)
        if target.suffix.lower() == ".png":
            with atomic_path(target) as temporary:
                figure.savefig(temporary, format="png", dpi=144, transparent=True)
        else:
            write_text(target, to_svg(figure))


def _panels(runs: Mapping[str, ComparedRun], gains: Mapping[str, QueryGains]) -> list[Panel]:
    """Return all panels; one without data has no lines."""
    reference = next(iter(runs))
    losses = {name: run.curve("loss") for name, run in runs.items()}
    scores = {name: run.curve("mAP", 100) for name, run in runs.items()}
    macs = {
        name: run.curve("macs", 100 / run.record.teacher.cost.macs)
        for name, run in runs.items()
        if run.record.teacher is not None
    }
    zero = {reference: np.array([(0.0, 0.0), (100.0, 0.0)])} if gains else {}
    sorted_gains = {name: _by_quantile(100 * gain.differences) for name, gain in gains.items()}
    return [
        Panel("Training loss (its terms depend on the method)", _nonempty(losses), _format_loss),
        Panel("mAP after each epoch (%)", _nonempty(scores), _format_epochs),
        Panel("MACs after each epoch (% of the teacher's)", _nonempty(macs), _format_share),
        Panel(f"AP gain of each query over {reference} (points)", zero | sorted_gains, _format_queries),
    ]


def _nonempty(curves: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    return {name: points for name, points in curves.items() if len(points)}


def _by_quantile(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (Q, 2) points of (Q,) ascending values: the percentage of queries up to each (midpoint), and the value."""
    return np.column_stack([100 * (np.arange(len(values)) + 0.5) / len(values), values])


def _format_epochs(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    for line in axes.lines:
        line.set(marker="o", markersize=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")


def _format_loss(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    _format_epochs(axes)
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    if 0 < _LOG_RATIO * values.min() < values.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _format_share(axes: "Axes") -> None:
    _format_epochs(axes)
    axes.set_ylim(bottom=0)


def _format_queries(axes: "Axes") -> None:
    axes.set_xlim(0, 100)
    axes.set_xlabel("queries, in ascending order of the gain (%)")
