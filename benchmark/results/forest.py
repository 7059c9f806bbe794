"""The forest plot of a leaderboard with budgets: the gain of every method over the student alone, per budget."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmark.plots.style import ACCENT, NEUTRAL, plot_style, to_svg
from benchmark.results.board import Board
from benchmark.results.comparison import Gain
from benchmark.results.rows import BASELINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOREST = "-forest.svg"
"""End of the name of the file with the plot, after that of the leaderboard."""
_ROW, _MARGIN, _WIDTH = 0.24, 1.35, 7.2
"""Height of a method, of everything else, and width of the figure, in inches."""


def forest_gains(board: Board) -> dict[float, dict[str, Gain]]:
    """Return budget -> method -> gain over the student alone of the same budget, the largest budget first."""
    found: dict[float, dict[str, Gain]] = {}
    for curve in board.curves:
        for budget, row in curve.rows.items():
            if (gain := board.gain(BASELINE, row)) is not None:
                found.setdefault(budget, {}).setdefault(curve.method, gain)
    return dict(sorted(found.items(), reverse=True))


def forest_svg(name: str, gains: Mapping[float, Mapping[str, Gain]]) -> str:
    """Return an SVG with a panel per budget: points of mAP over the student alone, with 95 % confidence intervals.

    Args:
        name: Name of the leaderboard.
        gains: Budget -> method -> gain; see `forest_gains`.
    """
    from matplotlib.figure import Figure

    methods = sorted(
        {method for of_methods in gains.values() for method in of_methods},
        key=lambda method: sum(of_methods[method].mean for of_methods in gains.values() if method in of_methods),
    )
    with plot_style():
        figure = Figure(figsize=(_WIDTH, _MARGIN + _ROW * len(methods)), dpi=72)
        figure.text(0.018, 1 - 0.25 / figure.get_figheight(), f"Gain over the student alone on {name}", weight="bold")
        subtitle = "bars: 95 % confidence intervals; in color: significant"
        figure.text(0.018, 1 - 0.45 / figure.get_figheight(), subtitle, fontsize=9)
        low = min(gain.interval.low for of_methods in gains.values() for gain in of_methods.values())
        high = max(gain.interval.high for of_methods in gains.values() for gain in of_methods.values())
        bottom, height = 0.5 / figure.get_figheight(), 1 - _MARGIN / figure.get_figheight()
        left, width = 0.25, 0.74 / len(gains)
        for index, (budget, of_methods) in enumerate(gains.items()):
            axes = figure.add_axes((left + index * width, bottom, 0.9 * width, height))
            _draw_panel(axes, methods, of_methods)
            axes.set_title(f"{100 * budget:.3g} % of the MACs", fontsize=10)
            axes.set_xlim(100 * min(low, 0) - 0.3, 100 * max(high, 0) + 0.3)
            axes.set_xlabel("points of mAP")
            if index:
                axes.set_yticklabels([])
        return to_svg(figure)


def _draw_panel(axes: "Axes", methods: Sequence[str], gains: Mapping[str, Gain]) -> None:
    axes.axvline(0, color=NEUTRAL, linewidth=1)
    for place, method in enumerate(methods):
        if (gain := gains.get(method)) is not None:
            color = ACCENT if gain.significant else NEUTRAL
            axes.plot([100 * gain.interval.low, 100 * gain.interval.high], [place, place], color=color, linewidth=1.6)
            axes.plot(100 * gain.mean, place, marker="o", markersize=5, color=color)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(-0.6, len(methods) - 0.4)
    axes.grid(visible=False, axis="y")
