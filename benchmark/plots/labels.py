"""Labels beside points, none of which covers another label, a marker or a line."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox


# Level with the marker first: such a label cannot be taken for a neighbour's.
_DIRECTIONS = (
    *((-1, 0), (1, 0), (0, 1), (0, -1), (-1, 1), (1, 1), (1, -1), (-1, -1)),
    *((-1, 0.5), (1, 0.5), (-1, -0.5), (1, -0.5), (-0.5, 1), (0.5, 1), (-0.5, -1), (0.5, -1)),
)
_DISTANCES = (3, 6, 12, 20, 30, 42, 56, 72, 90, 110, 140, 180)
_MARKER = 7.0
"""Half the width of a marker, in points."""
_CROWD = 10
"""Points one above the other, from which on their labels stand in columns."""
_APART = 28.0
"""Between their markers and the columns, in points."""


@dataclass(frozen=True, slots=True)
class Label:
    """A text for the point (x, y), in data coordinates."""

    x: float
    y: float
    text: str
    color: str


def place_labels(axes: "Axes", labels: Sequence[Label], lines: Iterable[np.ndarray]) -> None:
    """Write the labels beside their points; one that finds no free place is left out.

    Many points one above the other have theirs in two columns beside them, where there is room, in the points' order.

    Args:
        axes: with its limits final, in a figure of 72 dots per inch.
        lines: polylines to keep clear of, each (n, 2) in data coordinates.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    renderer = FigureCanvasAgg(axes.get_figure(root=True)).get_renderer()
    points = axes.transData.transform([(label.x, label.y) for label in labels])
    taken = [Bbox([point - _MARKER, point + _MARKER]) for point in points]
    for line in lines:
        corners = axes.transData.transform(line)
        taken += [box for ends in pairwise(corners) for box in _along(*ends)]
    texts: list[Bbox] = []
    written = [
        axes.text(0, 0, label.text, color=label.color, ha="center", va="center", transform=None) for label in labels
    ]
    sizes = np.array([text.get_window_extent(renderer).size for text in written])
    centers = _columns(points, sizes, axes.bbox)
    order = sorted(range(len(labels)), key=lambda i: i not in centers)  # the columns' own labels come first
    for i in order:
        label, point, text, size = labels[i], points[i], written[i], sizes[i]
        center = centers[i] if i in centers else _free_center(point, size, axes.bbox, taken, texts)
        if center is None:
            text.remove()
            continue
        text.set_position((center[0], center[1]))
        box = Bbox([center - size / 2, center + size / 2])
        texts.append(box)
        taken.append(box)
        edge = np.clip(point, box.min, box.max)
        if np.hypot(*(edge - point)) > _MARKER + _DISTANCES[0] + 0.5:  # not right beside its marker
            axes.plot(*zip(point, edge, strict=True), color=label.color, linewidth=0.8, transform=None, zorder=1.6)
            taken += _along(point, edge)


def _columns(points: np.ndarray, sizes: np.ndarray, area: "Bbox") -> dict[int, np.ndarray]:
    """Where the labels of points go that are too many in one place, by their numbers."""
    centers: dict[int, np.ndarray] = {}
    if not len(points):
        return centers
    across = points[:, 0]
    crowds = [np.flatnonzero(np.abs(across - x) <= _MARKER) for x in across]
    crowd = max(crowds, key=len)
    if len(crowd) < _CROWD:
        return centers
    columns: dict[int, list[int]] = {-1: [], 1: []}
    for i in crowd[np.argsort(points[crowd, 1], kind="stable")].tolist():
        room = {-1: points[i, 0] - area.x0, 1: area.x1 - points[i, 0]}
        sides = [side for side in columns if sizes[i, 0] + 2 * _MARKER <= room[side]] or [
            max(room, key=room.__getitem__)
        ]
        columns[min(sides, key=lambda side: len(columns[side]))].append(i)
    for side, chosen in columns.items():
        if not chosen:
            continue
        heights = _spread(points[chosen, 1], sizes[chosen, 1].max() + 0.5, area.y0, area.y1)
        for i, height in zip(chosen, heights, strict=True):
            beside = points[i, 0] + side * (_MARKER + _APART + sizes[i, 0] / 2)
            centers[i] = np.array([np.clip(beside, area.x0 + sizes[i, 0] / 2, area.x1 - sizes[i, 0] / 2), height])
    return centers


def _spread(heights: np.ndarray, least: float, bottom: float, top: float) -> np.ndarray:
    """Ascending heights at least so far apart, near those given, and within the area where there is room."""
    steps = least * np.arange(len(heights))
    pushed_up = np.maximum.accumulate(heights - steps) + steps
    pushed_down = np.minimum.accumulate((heights - steps)[::-1])[::-1] + steps
    apart = (pushed_up + pushed_down) / 2
    apart = np.minimum(apart, top - least / 2 - steps[::-1])
    return np.maximum(apart, bottom + least / 2 + steps)


def _free_center(
    point: np.ndarray, size: np.ndarray, area: "Bbox", taken: list["Bbox"], texts: list["Bbox"]
) -> np.ndarray | None:
    """Where a text of this size is nearest to its point, if possible with a way to it that crosses no other text."""
    from matplotlib.transforms import Bbox

    free = []
    for distance, direction in product(_DISTANCES, _DIRECTIONS):
        center = point + np.array(direction) * (_MARKER + distance + size / 2)
        box = Bbox([center - size / 2, center + size / 2])
        if area.count_contains(box.corners()) == 4 and not box.count_overlaps(taken):
            if not any(step.count_overlaps(texts) for step in _along(point, center)):
                return center
            free.append(center)
    return free[0] if free else None


def _along(start: np.ndarray, end: np.ndarray) -> list["Bbox"]:
    """Small boxes that cover the segment."""
    from matplotlib.transforms import Bbox

    steps = max(2, int(np.hypot(*(end - start)) / 3))
    return [Bbox([spot - 1.5, spot + 1.5]) for spot in np.linspace(start, end, steps)]
