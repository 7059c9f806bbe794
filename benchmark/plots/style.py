"""The style of all plots: transparent, readable on white and on black, and with reproducible bytes."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# The luminance of every color has the same contrast, 4.3:1, with white and with GitHub's dark background, #0d1117.
# Media queries for dark mode would follow the setting of the browser, which may differ from the page around the plot.
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
    """Apply the style within a context."""
    from matplotlib import style

    with style.context(_STYLE, after_reset=True):  # ignores a user's matplotlibrc
        yield


@contextmanager
def canvas(title: str, subtitle: str, right: float = 0.03) -> Iterator[tuple["Figure", "Axes"]]:
    """Create a titled figure of 7.2 x 4.4 inches and its axes, with the style applied.

    Args:
        title: Title of the figure.
        subtitle: Line below the title.
        right: Right margin, as a fraction of the figure's width.
    """
    from matplotlib.figure import Figure

    with plot_style():
        figure = Figure(figsize=(7.2, 4.4), dpi=72)  # one pixel is one point, as in the SVG
        axes = figure.add_axes((0.1, 0.125, 0.9 - right, 0.715))
        figure.text(0.018, 0.945, title, fontsize=12, fontweight="bold")
        figure.text(0.018, 0.89, subtitle, fontsize=9)
        yield figure, axes


def to_svg(figure: "Figure") -> str:
    """Return the figure as SVG with a transparent background; the style must be applied, see `plot_style`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
