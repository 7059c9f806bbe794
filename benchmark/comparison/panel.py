"""A part of a picture: lines of several runs in one coordinate system."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
