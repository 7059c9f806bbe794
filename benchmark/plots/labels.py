"""Placement of point labels, so that no label covers another label, a marker or a line."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    renderer = FigureCanvasAgg(axes.get_figure(root=True)).get_renderer()
    points = axes.transData.transform([(label.x, label.y) for label in labels])
    occupied = [Bbox([point - _MARKER, point + _MARKER]) for point in points]
    for line in lines:
        corners = axes.transData.transform(line)
        occupied += [box for ends in pairwise(corners) for box in _boxes_along(*ends)]
    placed: list[Bbox] = []
    texts = [
        axes.text(0, 0, label.text, color=label.color, ha="center", va="center", transform=None) for label in labels
    ]
    sizes = np.array([text.get_window_extent(renderer).size for text in texts])
    centers = _columns(points, sizes, axes.bbox)
    for i in sorted(range(len(labels)), key=lambda i: i not in centers):  # the labels of the columns first
        label, point, text, size = labels[i], points[i], texts[i], sizes[i]
        center = centers[i] if i in centers else _free_center(point, size, axes.bbox, occupied, placed)
        if center is None:
            text.remove()
            continue
        text.set_position((center[0], center[1]))
        box = Bbox([center - size / 2, center + size / 2])
        placed.append(box)
        occupied.append(box)
        edge = np.clip(point, box.min, box.max)
        if np.hypot(*(edge - point)) > _MARKER + _DISTANCES[0] + 0.5:  # not adjacent to its marker: draw a leader line
            axes.plot(*zip(point, edge, strict=True), color=label.color, linewidth=0.8, transform=None, zorder=1.6)
            occupied += _boxes_along(point, edge)


def _columns(points: NDArray[np.float64], sizes: NDArray[np.float64], area: "Bbox") -> dict[int, NDArray[np.float64]]:
    """Return the label centers of the largest crowd of points above each other, by index of the point.

    Args:
        points: (n, 2) points in pixels.
        sizes: (n, 2) label sizes in pixels.
        area: The area of the axes.
    """
    centers: dict[int, NDArray[np.float64]] = {}
    if not len(points):
        return centers
    across = points[:, 0]
    crowd = max((np.flatnonzero(np.abs(across - x) <= _MARKER) for x in across), key=len)
    if len(crowd) < _CROWD:
        return centers
    columns: dict[int, list[int]] = {-1: [], 1: []}
    for i in crowd[np.argsort(points[crowd, 1], kind="stable")].tolist():
        space = {-1: points[i, 0] - area.x0, 1: area.x1 - points[i, 0]}
        sides = [side for side in columns if sizes[i, 0] + 2 * _MARKER <= space[side]] or [
            max(space, key=space.__getitem__)
        ]
        columns[min(sides, key=lambda side: len(columns[side]))].append(i)
    for side, column in columns.items():
        if not column:
            continue
        heights = _spread(points[column, 1], sizes[column, 1].max() + 0.5, area.y0, area.y1)
        for i, height in zip(column, heights, strict=True):
            x = points[i, 0] + side * (_MARKER + _COLUMN_DISTANCE + sizes[i, 0] / 2)
            centers[i] = np.array([np.clip(x, area.x0 + sizes[i, 0] / 2, area.x1 - sizes[i, 0] / 2), height])
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
    point: NDArray[np.float64],
    size: NDArray[np.float64],
    area: "Bbox",
    occupied: list["Bbox"],
    placed: list["Bbox"],
) -> NDArray[np.float64] | None:
    """Return the free center closest to the point, preferably with a leader line that crosses no other label."""
    from matplotlib.transforms import Bbox

    free = []
    for distance, direction in product(_DISTANCES, _DIRECTIONS):
        center = point + np.array(direction) * (_MARKER + distance + size / 2)
        box = Bbox([center - size / 2, center + size / 2])
        if area.count_contains(box.corners()) == 4 and not box.count_overlaps(occupied):
            if not any(step.count_overlaps(placed) for step in _boxes_along(point, center)):
                return center
            free.append(center)
    return free[0] if free else None


def _boxes_along(start: NDArray[np.float64], end: NDArray[np.float64]) -> list["Bbox"]:
    """Return small boxes that cover the segment."""
    from matplotlib.transforms import Bbox

    steps = max(2, int(np.hypot(*(end - start)) / 3))
    return [Bbox([spot - 1.5, spot + 1.5]) for spot in np.linspace(start, end, steps)]
