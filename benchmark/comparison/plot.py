"""How runs learned, how they shrank, and what they gain and lose query by query, as one picture."""

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


@dataclass(frozen=True, slots=True)
class Panel:
    """What is drawn, and how."""

    title: str
    lines: Mapping[str, NDArray[np.float64]]
    """(n, 2) points of each run that has some, by its name."""
    finish: Callable[["Axes"], None]
    """Sets up the axes once the lines are there."""

    def draw(self, axes: "Axes", looks: Mapping[str, Mapping[str, Any]]) -> None:
        """Draw into `axes`; `looks` are colour and dashes of each run's line."""
        axes.set_title(self.title, loc="left", fontsize=10)
        for name, points in self.lines.items():
            axes.plot(*points.T, linewidth=1.8, **looks[name])
        self.finish(axes)


SUFFIXES = (".svg", ".png")
_DASHES = ("-", "--", ":", "-.")
"""Of the runs that are the first, the second and so on to have a colour."""
_LETTERS = 110
"""That fit into a line of the legend."""
_WIDE = 4
"""From the largest value being so many times the smallest on, an axis is logarithmic."""


def draw(runs: Mapping[str, ComparedRun], gains: Mapping[str, QueryGains], target: Path) -> None:
    """Write a picture with a panel for the loss, and for mAP, MACs and gains where a run has them.

    Args:
        runs: By name; the others are compared with the first.
        gains: Over the first, of the runs whose queries can be paired with its own.
        target: An SVG or a PNG, as its suffix says; it is replaced as a whole.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    looks: dict[str, dict[str, Any]] = {
        name: {"color": PALETTE[index % len(PALETTE)], "linestyle": _DASHES[index // len(PALETTE) % len(_DASHES)]}
        for index, name in enumerate(runs)
    }
    panels = [panel for panel in _panels(runs, gains) if panel.lines]
    rows = (len(panels) + 1) // 2
    with plot_style():
        layout = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12)
        figure = Figure(figsize=(10, 0.8 + 3 * rows), dpi=72, layout=layout)
        figure.legend(
            handles=[Line2D([], [], linewidth=2, label=name, **each) for name, each in looks.items()],
            loc="outside upper left",
            ncols=max(1, _LETTERS // (max(map(len, runs)) + 8)),
            frameon=False,
        )
        grid = figure.add_gridspec(rows, 2)
        for index, panel in enumerate(panels):
            row, column = divmod(index, 2)
            alone = index == len(panels) - 1 and column == 0
            panel.draw(figure.add_subplot(grid[row, :] if alone else grid[row, column]), looks)
        if target.suffix.lower() == ".png":
            with atomic_path(target) as temporary:
                figure.savefig(temporary, format="png", dpi=144, transparent=True)
        else:
            write_text(target, to_svg(figure))


def _panels(runs: Mapping[str, ComparedRun], gains: Mapping[str, QueryGains]) -> list[Panel]:
    """All that there could be; one that nothing is known for has no lines."""
    first = next(iter(runs))
    teachers = {name: run.record.teacher for name, run in runs.items()}
    losses = {name: run.curve("loss") for name, run in runs.items()}
    scores = {name: run.curve("mAP", 100) for name, run in runs.items()}
    macs = {
        name: runs[name].curve("macs", 100 / teacher.cost.macs)
        for name, teacher in teachers.items()
        if teacher is not None
    }
    zero = {first: np.array([(0.0, 0.0), (100.0, 0.0)])} if gains else {}
    sorted_gains = {name: _over_queries(100 * each.differences) for name, each in gains.items()}
    return [
        Panel("Loss: the sum of each method's own terms", _known(losses), _loss),
        Panel("mAP after each epoch (%)", _known(scores), _epochs),
        Panel("MACs after each epoch (% of the teacher's)", _known(macs), _share),
        Panel(f"Average precision of each query against {first} (points)", zero | sorted_gains, _queries),
    ]


def _known(curves: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    return {name: points for name, points in curves.items() if len(points)}


def _over_queries(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(Q, 2) points: each value above the share of queries, in percent, at whose middle it is."""
    return np.column_stack([100 * (np.arange(len(values)) + 0.5) / len(values), values])


def _epochs(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    for line in axes.lines:
        line.set(marker="o", markersize=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")


def _loss(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    _epochs(axes)
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    if 0 < _WIDE * values.min() < values.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _share(axes: "Axes") -> None:
    _epochs(axes)
    axes.set_ylim(bottom=0)


def _queries(axes: "Axes") -> None:
    axes.set_xlim(0, 100)
    axes.set_xlabel("queries, from the largest loss to the largest gain (%)")
