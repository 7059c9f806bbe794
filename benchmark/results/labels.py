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


@dataclass(frozen=True, slots=True)
class Label:
    """A text for the point (x, y), in data coordinates."""

    x: float
    y: float
    text: str
    color: str


def place_labels(axes: "Axes", labels: Sequence[Label], lines: Iterable[np.ndarray]) -> None:
    """Write the labels beside their points; one that finds no free place is left out.

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
    for label, point in zip(labels, points, strict=True):
        text = axes.text(0, 0, label.text, color=label.color, ha="center", va="center", transform=None)
        size = np.array(text.get_window_extent(renderer).size)
        center = _free_center(point, size, axes.bbox, taken, texts)
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
