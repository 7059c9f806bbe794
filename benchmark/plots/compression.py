"""The picture of a student that shrinks while it learns."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.plots.style import NEUTRAL, PALETTE, canvas, to_svg

_LINES = {"channels": PALETTE[1], "parameters": PALETTE[0], "macs": PALETTE[2]}
_NAMES = {"macs": "MACs"}
_LINE_HEIGHT = 5.2
"""Of a label, in units of the percent axis."""


def compression_svg(trace: Sequence[Mapping[str, float]]) -> str:
    """SVG: channels, parameters and MACs per epoch in percent of the start, and mAP in percent where the trace has it.

    Args:
        trace: at least one epoch, in order, each with "epoch", "channels", "parameters", "macs" and perhaps "mAP" (a
            fraction).
    """
    from matplotlib.ticker import MaxNLocator

    epochs = [point["epoch"] for point in trace]
    scored = [point for point in trace if point.get("mAP") is not None]
    subtitle = "percent of the network at the start" + ("; mAP in percent" if scored else "")
    ends: list[tuple[float, str, str]] = []
    with canvas("Compression while learning", subtitle, right=0.215) as (figure, axes):
        for key, color in _LINES.items():
            values = [100 * point[key] / trace[0][key] for point in trace]
            axes.plot(epochs, values, color=color, linewidth=2, marker="o", markersize=2.6, clip_on=False)
            ends.append((values[-1], f"{_NAMES.get(key, key)} {values[-1]:.1f} %", color))
        if scored:
            values = [100 * point["mAP"] for point in scored]
            axes.plot([point["epoch"] for point in scored], values, color=NEUTRAL, linewidth=1.6, linestyle=(0, (4, 2)))
            ends.append((values[-1], f"mAP {values[-1]:.1f} %", NEUTRAL))
        axes.set_ylim(0, 105)
        axes.set_xlim(epochs[0], max(epochs[-1], epochs[0] + 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        ends.sort()
        for height, (_, text, color) in zip(_spread([end[0] for end in ends]), ends, strict=True):
            axes.annotate(
                text, (1, height), (8, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                color=color, va="center", annotation_clip=False,
            )  # fmt: skip
        return to_svg(figure)


def _spread(heights: Sequence[float]) -> np.ndarray:
    """Ascending heights moved apart by a line or more, as a whole about as high as before."""
    spread: list[float] = []
    for height in heights:
        spread.append(height if not spread else max(height, spread[-1] + _LINE_HEIGHT))
    return np.array(spread) - np.mean(np.subtract(spread, heights))
