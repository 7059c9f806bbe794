"""The plot of a leaderboard: mAP against MACs or another cost, with the Pareto frontier."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.plots.labels import Label, place_labels
from benchmark.plots.style import ACCENT, NEUTRAL, PALETTE, canvas, to_svg
from benchmark.results.budgets import curves
from benchmark.results.format import milliseconds, quantity
from benchmark.results.rows import BASELINE, TEACHER, Row, Statistic
from benchmark.utils.lifetime import PARENT, start_worker
from benchmark.utils.machine import cores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PER_PROCESS = 8
"""Number of plots that take longer than it takes to start a process."""
_LABELED = 60
"""Largest number of rows with a label and an error bar: there is no space for more."""


class Cost(NamedTuple):
    """A cost that mAP is plotted against."""

    title: str
    """Its name in the plot's title."""
    label: str
    """The label of the axis."""
    of: Callable[[Row], Statistic | None]
    """Returns the cost of a row; None if it is not known."""
    text: Callable[[Statistic], str] = quantity
    """Formats a cost, with the prefix of its unit."""


COSTS: Mapping[str, Cost] = {
    "macs": Cost("MACs", "MACs of the deployed network", lambda row: row.macs),
    "parameters": Cost("parameters", "parameters of the deployed network", lambda row: row.parameters),
    "bytes": Cost(
        "size",
        "size of the deployed network in float32 (bytes)",
        lambda row: row.statistic(lambda record: 4 * record.network.cost.parameters),
    ),
    "bytes-per-image": Cost(
        "the size of embeddings", "size of the embedding of a gallery image (bytes)", lambda row: row.bytes_per_image
    ),
    "latency": Cost("latency", "latency of one image (ms)", lambda row: row.stable_latency(1), milliseconds),
}
"""The costs by name."""


class Mark(NamedTuple):
    """A row in a plot: its method, its mean cost, and the mean and standard deviation of its mAP.

    `curve` is the number of the curve that the row is a point of, -1 if it is alone.
    """

    method: str
    cost: float
    mAP: float
    deviation: float
    curve: int = -1


def frontier_svgs(boards: Mapping[str, Sequence[Row]], cost: str = "macs") -> dict[str, str]:
    """Return the plot of every leaderboard, by its name. Many are drawn by one process per core.

    Rows whose cost is not known are left out, as are unstable latencies, and leaderboards that have no others.

    Args:
        boards: The rows of each leaderboard.
        cost: The horizontal axis, a key of `COSTS`.
    """
    tasks = {name: marks for name, rows in boards.items() if (marks := _marks(rows, cost))}
    processes = min(cores(), len(tasks) // _PER_PROCESS)
    shares = [dict(list(tasks.items())[start::processes]) for start in range(processes)] if processes > 1 else []
    drawn = _draw_elsewhere(shares, cost)
    return {name: drawn.get(name) or frontier_svg(name, marks, cost) for name, marks in tasks.items()}


def _marks(rows: Sequence[Row], cost: str) -> list[Mark]:
    numbers = {row: number for number, curve in enumerate(curves(rows)) for row in curve.rows.values()}
    return [
        Mark(row.label, value.mean, row.mAP.mean, row.mAP.std or 0.0, numbers.get(row, -1))
        for row in rows
        if (value := COSTS[cost].of(row))
    ]


def _draw_elsewhere(shares: Sequence[Mapping[str, Sequence[Mark]]], cost: str) -> dict[str, str]:
    """Run this module in a process per share, which imports nothing from the main module of this one.

    The plots of a process that fails, such as for lack of memory, are missing.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), PARENT: str(os.getpid())}
    drawn: dict[str, str] = {}
    with ExitStack() as children:
        started = []
        for share in shares:
            child = subprocess.Popen(
                [sys.executable, "-m", __name__, cost],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            children.callback(child.wait)
            children.callback(child.kill)  # if this process is interrupted
            started.append((child, share))
        for child, share in started:
            with suppress(OSError):
                assert child.stdin is not None
                with child.stdin:
                    json.dump(share, child.stdin)
        for child, _ in started:
            with suppress(OSError, ValueError):
                assert child.stdout is not None
                with child.stdout:
                    drawn |= json.load(child.stdout)
    return drawn


def frontier_svg(name: str, marks: Sequence[Mark], cost: str = "macs") -> str:
    """Return an SVG of mAP (percent) against a cost (log scale) of the rows of a leaderboard.

    Every row has a marker, a label, and its standard deviation over seeds as an error bar; teachers are stars. The
    dashed line is the Pareto frontier, through the rows that no other row beats in both values. The rows of a method at
    several budgets are a curve with one label. Of more than 60 rows, only the first ones in the order of the
    leaderboard have a label and an error bar, the others have small markers.

    Args:
        name: Name of the leaderboard.
        marks: The rows, in the order of the leaderboard.
        cost: The horizontal axis, a key of `COSTS`.
    """
    colors = _colors(mark.method for mark in marks)
    all_points = np.array([(mark.cost, 100 * mark.mAP) for mark in marks])
    rest, marks, points = marks[_LABELED:], marks[:_LABELED], all_points[:_LABELED]
    errors = 100 * np.array([mark.deviation for mark in marks])
    bars_are = "bars: standard deviation over seeds" if errors.any() else "one seed each"
    with canvas(f"mAP against {COSTS[cost].title} on {name}", f"{bars_are}; better is up and left") as (figure, axes):
        _set_axes(axes, all_points, errors, COSTS[cost])
        frontier = pareto_frontier(all_points)
        axes.plot(*frontier.T, color=NEUTRAL, alpha=0.55, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1.5)
        if rest:
            x_rest, y_rest = all_points[_LABELED:].T
            axes.scatter(x_rest, y_rest, s=9, c=[colors[mark.method] for mark in rest], alpha=0.5, linewidths=0)
        # Rows that look alike are drawn at once, which saves a third of the time.
        looks = [
            (colors[mark.method], mark.method == TEACHER, error > 0) for mark, error in zip(marks, errors, strict=True)
        ]
        for look in dict.fromkeys(looks):
            color, is_teacher, has_bar = look
            alike = [other == look for other in looks]
            marker, size = ("*", 14) if is_teacher else ("o", 8)
            deviations = errors[alike] if has_bar else None
            axes.errorbar(
                points[alike, 0],
                points[alike, 1],
                deviations,
                color=color,
                linestyle="none",
                elinewidth=1.4,
                capsize=3,
                marker=marker,
                markersize=size,
            )
        ends = _draw_curves(axes, marks, points, errors, colors)
        bars = [np.array([(x, y - error), (x, y + error)]) for (x, y), error in zip(points, errors, strict=True)]
        labels = [
            Label(x, y, mark.method, colors[mark.method])
            for index, (mark, (x, y)) in enumerate(zip(marks, points.tolist(), strict=True))
            if mark.curve < 0 or index in ends
        ]
        place_labels(axes, labels, [frontier, *bars])
        return to_svg(figure)


def _draw_curves(
    axes: "Axes",
    marks: Sequence[Mark],
    points: NDArray[np.float64],
    errors: NDArray[np.float64],
    colors: Mapping[str, str],
) -> set[int]:
    """Connect the rows of each curve, with a band of one standard deviation.

    Returns:
        The position of the row with the highest cost of each curve.
    """
    ends = set()
    for number in sorted({mark.curve for mark in marks} - {-1}):
        members = sorted(
            (index for index, mark in enumerate(marks) if mark.curve == number), key=lambda i: points[i, 0]
        )
        (x, y), error, color = points[members].T, errors[members], colors[marks[members[0]].method]
        axes.plot(x, y, color=color, linewidth=1.5)
        axes.fill_between(x, y - error, y + error, color=color, alpha=0.15, linewidth=0)
        ends.add(members[-1])
    return ends


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


def _colors(methods: Iterable[str]) -> dict[str, str]:
    methods = sorted(set(methods) - {TEACHER, BASELINE})
    return {TEACHER: ACCENT, BASELINE: NEUTRAL} | {
        method: PALETTE[index % len(PALETTE)] for index, method in enumerate(methods)
    }


def _set_axes(axes: "Axes", points: NDArray[np.float64], errors: NDArray[np.float64], cost: Cost) -> None:
    """Set limits with room for labels around the outermost points, and at least two ticks on each axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    costs = np.where(points[:, 0] > 0, points[:, 0], 1.0)
    low, high = np.log(costs.min()), np.log(costs.max())
    margin = max(0.12 * (high - low), (np.log(6) - (high - low)) / 2)
    axes.set_xscale("log")
    axes.set_xlim(np.exp(low - margin), np.exp(high + margin))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if high - low < np.log(20) else (1, 2, 5), numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, cost)))
    axes.set_xlabel(cost.label)
    labeled = points[: len(errors), 1]
    bottom = min(points[:, 1].min(), (labeled - errors).min())
    top = max(points[:, 1].max(), (labeled + errors).max())
    margin = 0.15 * max(top - bottom, 4.0)
    axes.set_ylim(bottom - margin, top + margin)
    axes.set_ylabel("mAP (%)")


def _tick(value: float, cost: Cost) -> str:
    """Return a round number without trailing zeros: "20 M"."""
    number, _, unit = cost.text(Statistic(value)).partition(" ")
    return f"{float(number):g} {unit}".rstrip()


if __name__ == "__main__":
    start_worker()
    gc.set_threshold(100_000)  # a plot has many objects, few of which are garbage before it is complete
    json.dump(
        {
            name: frontier_svg(name, [Mark(*mark) for mark in marks], sys.argv[1])
            for name, marks in json.load(sys.stdin).items()
        },
        sys.stdout,
    )
