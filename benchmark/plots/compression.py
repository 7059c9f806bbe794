"""The plot of a student that is compressed during training."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark.plots.style import NEUTRAL, PALETTE, canvas, to_svg

LINE_HEIGHT = 5.2
"""Height of a label, in units of the percent axis."""
_COLORS = {"channels": PALETTE[1], "parameters": PALETTE[0], "macs": PALETTE[2]}
_NAMES = {"macs": "MACs"}


def compression_svg(trace: Sequence[Mapping[str, float]]) -> str:
    """Return an SVG of channels, parameters and MACs per epoch, in percent of the first epoch, and mAP in percent.

    Args:
        trace: At least one epoch, in order, each with "epoch", "channels", "parameters", "macs" and, in epochs that
            were evaluated, "mAP" (a fraction).
    """
    from matplotlib.ticker import MaxNLocator

    epochs = [point["epoch"] for point in trace]
    evaluated = [point for point in trace if point.get("mAP") is not None]
    subtitle = "percent of the network at the start" + ("; mAP in percent" if evaluated else "")
    ends: list[tuple[float, str, str]] = []
    with canvas("Compression during training", subtitle, right=0.215) as (figure, axes):
        for key, color in _COLORS.items():
            values = [100 * point[key] / trace[0][key] for point in trace]
            axes.plot(epochs, values, color=color, linewidth=2, marker="o", markersize=2.6, clip_on=False)
            ends.append((values[-1], f"{_NAMES.get(key, key)} {values[-1]:.1f} %", color))
        if evaluated:
            values = [100 * point["mAP"] for point in evaluated]
            x = [point["epoch"] for point in evaluated]
            axes.plot(x, values, color=NEUTRAL, linewidth=1.6, linestyle=(0, (4, 2)))
            ends.append((values[-1], f"mAP {values[-1]:.1f} %", NEUTRAL))
        axes.set_ylim(0, 105)
        axes.set_xlim(epochs[0], max(epochs[-1], epochs[0] + 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        ends.sort()
        heights = spread_labels([height for height, _, _ in ends])
        for height, (_, text, color) in zip(heights, ends, strict=True):
            axes.annotate(
                text, (1, height), (8, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                color=color, va="center", annotation_clip=False,
            )  # fmt: skip
        return to_svg(figure)


def spread_labels(heights: Sequence[float]) -> NDArray[np.float64]:
    """Move ascending label heights apart by at least `LINE_HEIGHT`, without changing their mean."""
    spread: list[float] = []
    for height in heights:
        spread.append(height if not spread else max(height, spread[-1] + LINE_HEIGHT))
    return np.array(spread) - np.mean(np.subtract(spread, heights))
