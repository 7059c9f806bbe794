"""The look shared by all pictures: transparent, readable on white and on black, the same bytes every time."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# All colours have the luminance whose contrast with white (4.3:1) equals that with GitHub's dark ground, #0d1117. Media
# queries for dark mode would follow the browser's setting, which need not be that of the page around the picture.
NEUTRAL = "#737a82"
ACCENT = "#c15d11"
PALETTE = ("#2279db", "#0f8c41", "#935dde", "#da4149", "#00878d", "#ca488f", "#8a7a00", "#686ce5")

_STYLE = {
    "svg.hashsalt": "benchmark",  # element ids are random without it
    "svg.fonttype": "path",  # labels keep their measured widths whatever fonts the viewer has
    "text.hinting": "none",
    "font.size": 10,
    "text.color": NEUTRAL,
    "axes.labelcolor": NEUTRAL,
    "axes.edgecolor": NEUTRAL,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": NEUTRAL,
    "grid.alpha": 0.22,
    "grid.linewidth": 0.6,
    "xtick.color": NEUTRAL,
    "ytick.color": NEUTRAL,
}


@contextmanager
def plot_style() -> Iterator[None]:
    """Have the look in force."""
    from matplotlib import style

    with style.context(_STYLE, after_reset=True):  # a user's matplotlibrc has no say
        yield


@contextmanager
def canvas(title: str, subtitle: str, right: float = 0.03) -> Iterator[tuple["Figure", "Axes"]]:
    """A titled figure of 7.2 x 4.4 inches and its axes, with the look in force; `right` is the margin's share."""
    from matplotlib.figure import Figure

    with plot_style():
        figure = Figure(figsize=(7.2, 4.4), dpi=72)  # one pixel is one point, as in the SVG
        axes = figure.add_axes((0.1, 0.125, 0.9 - right, 0.715))
        figure.text(0.018, 0.945, title, fontsize=12, fontweight="bold")
        figure.text(0.018, 0.89, subtitle, fontsize=9)
        yield figure, axes


def to_svg(figure: "Figure") -> str:
    """The figure as SVG on a transparent ground; call it while the `look` is in force."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
