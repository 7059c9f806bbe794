import numpy as np
import pytest

from benchmark.plots.style import ACCENT, NEUTRAL, PALETTE


def luminance(color):
    """The relative luminance of WCAG 2."""
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("color", [NEUTRAL, ACCENT, *PALETTE])
@pytest.mark.parametrize("background", ["#ffffff", "#0d1117"])
def test_colors_are_readable_on_light_and_dark(color, background):
    low, high = sorted((luminance(color), luminance(background)))
    assert (high + 0.05) / (low + 0.05) > 4.2
