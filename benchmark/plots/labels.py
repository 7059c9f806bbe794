"""Placement of point labels, so that no label covers another label, a marker or a line."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Boxes = NDArray[np.float64]
"""(n, 2, 2) boxes in pixels: the lower left and the upper right corner of each."""

# Horizontal neighbors first: such a label cannot be mistaken for the label of a point above or below.
_DIRECTIONS = (
    *((-1, 0), (1, 0), (0, 1), (0, -1), (-1, 1), (1, 1), (1, -1), (-1, -1)),
    *((-1, 0.5), (1, 0.5), (-1, -0.5), (1, -0.5), (-0.5, 1), (0.5, 1), (-0.5, -1), (0.5, -1)),
)
_DISTANCES = (3, 6, 12, 20, 30, 42, 56, 72, 90, 110, 140, 180)
"""Distances between marker and label that are tried, in points."""
_MARKER = 7.0
"""Half the width of a marker, in points."""
_CROWD = 10
"""Number of points above each other from which their labels are placed in columns."""
_COLUMN_DISTANCE = 28.0
"""Distance between the markers and a column of labels, in points."""


@dataclass(frozen=True, slots=True)
class Label:
    """A text for the point (x, y), in data coordinates."""

    x: float
    y: float
    text: str
    color: str


def place_labels(axes: "Axes", labels: Sequence[Label], lines: Iterable[NDArray[np.float64]]) -> None:
    """Write the labels next to their points; a label without a free place is left out.

    The labels of many points above each other are placed in two columns, left and right of the points and in their
    order, if there is space.

    Args:
        axes: Axes with final limits, in a figure of 72 dots per inch.
        labels: The labels.
        lines: Polylines to keep clear of, each (n, 2) in data coordinates.
    """
    from matplotlib.lines import Line2D

    area = axes.bbox.get_points()
    points = axes.transData.transform(np.array([(label.x, label.y) for label in labels]).reshape(-1, 2))
    sizes = np.array([_text_size(label.text) for label in labels])
    along = [_boxes_along(*ends) for line in lines for ends in pairwise(axes.transData.transform(line))]
    occupied = np.concatenate([np.stack([points - _MARKER, points + _MARKER], axis=1), *along])
    placed: Boxes = np.empty((0, 2, 2))
    centers = _columns(points, sizes, area)
    for i in sorted(range(len(labels)), key=lambda i: i not in centers):  # the labels of the columns first
        point, size = points[i], sizes[i]
        center = centers[i] if i in centers else _free_center(point, size, area, occupied, placed)
        if center is None:
            continue
        centers[i] = center
        box = np.array([[center - size / 2, center + size / 2]])
        placed = np.concatenate([placed, box])
        occupied = np.concatenate([occupied, box])
        edge = np.clip(point, *box[0])
        if np.hypot(*(edge - point)) > _MARKER + _DISTANCES[0] + 0.5:  # not adjacent to its marker: draw a leader line
            leader = Line2D(*zip(point, edge, strict=True), color=labels[i].color, linewidth=0.8, zorder=1.6)
            leader.set_transform(None)
            axes.add_line(leader)  # in half the time of Axes.plot
            occupied = np.concatenate([occupied, _boxes_along(point, edge)])
    for i, label in enumerate(labels):
        if i in centers:
            x, y = centers[i]
            axes.text(x, y, label.text, color=label.color, ha="center", va="center", transform=None)


@lru_cache(maxsize=1000)
def _text_size(text: str) -> tuple[float, float]:
    """Return the width and the height of a label in pixels; the style must be applied."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(dpi=72)
    label = figure.text(0, 0, text, ha="center", va="center", transform=None)
    width, height = label.get_window_extent(FigureCanvasAgg(figure).get_renderer()).size
    return width, height


def _columns(
    points: NDArray[np.float64], sizes: NDArray[np.float64], area: NDArray[np.float64]
) -> dict[int, NDArray[np.float64]]:
    """Return the label centers of the largest crowd of points above each other, by index of the point.

    Args:
        points: (n, 2) points in pixels.
        sizes: (n, 2) label sizes in pixels.
        area: (2, 2) lower left and upper right corner of the axes.
    """
    (left, bottom), (right, top) = area
    centers: dict[int, NDArray[np.float64]] = {}
    if not len(points):
        return centers
    across = points[:, 0]
    crowd = max((np.flatnonzero(np.abs(across - x) <= _MARKER) for x in across), key=len)
    if len(crowd) < _CROWD:
        return centers
    columns: dict[int, list[int]] = {-1: [], 1: []}
    for i in crowd[np.argsort(points[crowd, 1], kind="stable")].tolist():
        space = {-1: points[i, 0] - left, 1: right - points[i, 0]}
        sides = [side for side in columns if sizes[i, 0] + 2 * _MARKER <= space[side]] or [
            max(space, key=space.__getitem__)
        ]
        columns[min(sides, key=lambda side: len(columns[side]))].append(i)
    for side, column in columns.items():
        if not column:
            continue
        heights = _spread(points[column, 1], sizes[column, 1].max() + 0.5, bottom, top)
        for i, height in zip(column, heights, strict=True):
            x = points[i, 0] + side * (_MARKER + _COLUMN_DISTANCE + sizes[i, 0] / 2)
            centers[i] = np.array([np.clip(x, left + sizes[i, 0] / 2, right - sizes[i, 0] / 2), height])
    return centers


def _spread(heights: NDArray[np.float64], distance: float, bottom: float, top: float) -> NDArray[np.float64]:
    """Move ascending heights apart by at least `distance`, close to the originals and, if they fit, inside the area."""
    steps = distance * np.arange(len(heights))
    pushed_up = np.maximum.accumulate(heights - steps) + steps
    pushed_down = np.minimum.accumulate((heights - steps)[::-1])[::-1] + steps
    apart = (pushed_up + pushed_down) / 2
    apart = np.minimum(apart, top - distance / 2 - steps[::-1])
    return np.maximum(apart, bottom + distance / 2 + steps)


def _free_center(
    point: NDArray[np.float64], size: NDArray[np.float64], area: NDArray[np.float64], occupied: Boxes, placed: Boxes
) -> NDArray[np.float64] | None:
    """Return the free center closest to the point, preferably with a leader line that crosses no other label."""
    free = []
    for distance, direction in product(_DISTANCES, _DIRECTIONS):
        center = point + np.array(direction) * (_MARKER + distance + size / 2)
        low, high = center - size / 2, center + size / 2
        if (area[0] < low).all() and (high < area[1]).all() and not _overlap(np.array([[low, high]]), occupied):
            if not _overlap(_boxes_along(point, center), placed):
                return center
            free.append(center)
    return free[0] if free else None


def _overlap(ours: Boxes, theirs: Boxes) -> bool:
    """Return whether any of our boxes overlaps any of theirs."""
    first = ours[:, None]
    return bool(((first[..., 0, :] < theirs[:, 1]) & (theirs[:, 0] < first[..., 1, :])).all(axis=2).any())


def _boxes_along(start: NDArray[np.float64], end: NDArray[np.float64]) -> Boxes:
    """Return small boxes that cover the segment."""
    steps = max(2, int(np.hypot(*(end - start)) / 3))
    spots = np.linspace(start, end, steps)
    return np.stack([spots - 1.5, spots + 1.5], axis=1)
