"""The spread of average precision, as a picture in a page."""

from benchmark.inspection.summary import BINS, Summary

_WIDTH, _ROW, _BAR, _LEFT, _RIGHT = 360, 28, 11, 62, 44
"""In pixels: the picture, what one part of [0, 1] takes, a bar, and the room for labels and for counts."""


def histogram_svg(networks: dict[str, Summary]) -> str:
    """SVG for use within HTML: for each part of [0, 1], a bar and a count for each of at most two named networks.

    The bars have the CSS classes "bar0" and "bar1".
    """
    longest = max(count for summary in networks.values() for count in summary.histogram)
    bars = []
    for part in range(BINS):
        limits = f"{part / BINS:.1f} \u2013 {(part + 1) / BINS:.1f}"
        top = part * _ROW
        bars.append(f'<text x="{_LEFT - 8}" y="{top + _ROW / 2}" class="limits">{limits}</text>')
        middle = top + (_ROW - _BAR * len(networks)) / 2
        for index, (name, summary) in enumerate(networks.items()):
            count = summary.histogram[part]
            width = (_WIDTH - _LEFT - _RIGHT) * count / longest
            y = middle + index * _BAR
            bars.append(
                f"<g><title>{name}, AP {limits}: {count:,}</title>"
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 1}" class="bar{index}"/>'
                f'<text x="{_LEFT + width + 5:.1f}" y="{y + _BAR / 2}">{count:,}</text></g>'
            )
    label = f"Histogram of the AP of {' and '.join(networks)}"
    return f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {BINS * _ROW}">{"".join(bars)}</svg>'
