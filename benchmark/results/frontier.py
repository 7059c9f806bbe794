"""The plot of a leaderboard: mAP against MACs, with the Pareto frontier."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmark.plots.labels import Label, place_labels
from benchmark.plots.style import ACCENT, NEUTRAL, PALETTE, canvas, to_svg
from benchmark.results.format import quantity
from benchmark.results.rows import BASELINE, TEACHER, Row, Statistic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELED = 60
"""Largest number of rows with a label and an error bar: there is no space for more."""


def frontier_svg(rows: Sequence[Row]) -> str:
    """Return an SVG of mAP (percent) against MACs (log scale) of the rows of one dataset.

    Every row has a marker, a label, and its standard deviation over seeds as an error bar; teachers are stars. The
    dashed line is the Pareto frontier, through the rows that no other row beats in both values. Of more than 60 rows,
    only the first ones in the order of the leaderboard have a label and an error bar, the others have small markers.
    """
    colors = _colors(rows)
    all_points = np.array([(row.macs.mean, 100 * row.mAP.mean) for row in rows])
    rest, rows = rows[_LABELED:], rows[:_LABELED]
    points = np.array([(row.macs.mean, 100 * row.mAP.mean) for row in rows])
    errors = 100 * np.array([row.mAP.std or 0.0 for row in rows])
    bars_are = "bars: standard deviation over seeds" if errors.any() else "one seed each"
    with canvas(f"mAP against MACs on {rows[0].board}", f"{bars_are}; better is up and left") as (figure, axes):
        _set_axes(axes, all_points, errors)
        frontier = pareto_frontier(all_points)
        axes.plot(*frontier.T, color=NEUTRAL, alpha=0.55, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1.5)
        if rest:
            x_rest, y_rest = all_points[_LABELED:].T
            axes.scatter(x_rest, y_rest, s=9, c=[colors[row.method] for row in rest], alpha=0.5, linewidths=0)
        for row, (x, y), error in zip(rows, points, errors, strict=True):
            marker, size = ("*", 14) if row.method == TEACHER else ("o", 8)
            axes.errorbar(
                x, y, error or None, color=colors[row.method], elinewidth=1.4, capsize=3, marker=marker, markersize=size
            )
        bars = [np.array([(x, y - error), (x, y + error)]) for (x, y), error in zip(points, errors, strict=True)]
        labels = [
            Label(x, y, row.method, colors[row.method]) for row, (x, y) in zip(rows, points.tolist(), strict=True)
        ]
        place_labels(axes, labels, [frontier, *bars])
        return to_svg(figure)


def pareto_frontier(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (m, 2) corners of the staircase through the points that no other point beats in both values.

    Args:
        points: (n, 2) points (x, y), of which low x and high y are better.
    """
    corners: list[tuple[float, float]] = []
    for x, y in sorted(points.tolist(), key=lambda point: (point[0], -point[1])):
        if not corners:
            corners.append((x, y))
        elif y > corners[-1][1]:
            corners += [(x, corners[-1][1]), (x, y)]
    return np.array(corners)


def _colors(rows: Sequence[Row]) -> dict[str, str]:
    methods = sorted({row.method for row in rows} - {TEACHER, BASELINE})
    return {TEACHER: ACCENT, BASELINE: NEUTRAL} | {
        method: PALETTE[index % len(PALETTE)] for index, method in enumerate(methods)
    }


def _set_axes(axes: "Axes", points: NDArray[np.float64], errors: NDArray[np.float64]) -> None:
    """Set limits with room for labels around the outermost points, and at least two ticks on each axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = np.log(max(1.0, points[:, 0].min())), np.log(max(1.0, points[:, 0].max()))
    margin = max(0.12 * (high - low), (np.log(6) - (high - low)) / 2)
    axes.set_xscale("log")
    axes.set_xlim(np.exp(low - margin), np.exp(high + margin))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if high - low < np.log(20) else (1, 2, 5), numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda macs, _: _tick(macs)))
    axes.set_xlabel("MACs of the deployed network")
    labeled = points[: len(errors), 1]
    bottom = min(points[:, 1].min(), (labeled - errors).min())
    top = max(points[:, 1].max(), (labeled + errors).max())
    margin = 0.15 * max(top - bottom, 4.0)
    axes.set_ylim(bottom - margin, top + margin)
    axes.set_ylabel("mAP (%)")


def _tick(macs: float) -> str:
    """Return a round number without trailing zeros: "20 M"."""
    number, _, unit = quantity(Statistic(macs)).partition(" ")
    return f"{float(number):g} {unit}".rstrip()
