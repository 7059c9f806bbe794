"""The Pareto picture and the picture of compression."""

import random
import re
import sys
from itertools import combinations, pairwise
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from benchmark.plots.compression import _LINE_HEIGHT, _spread, compression_svg
from benchmark.plots.labels import Label, place_labels
from benchmark.plots.style import ACCENT, NEUTRAL, PALETTE, canvas
from benchmark.results.frontier import _front, pareto_svg
from benchmark.results.rows import summarise

TRACE = [{"epoch": e, "channels": 90 - 5 * e, "parameters": 9000 - 600 * e, "macs": 8000 - 500 * e} for e in range(8)]


def luminance(color):
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("color", [NEUTRAL, ACCENT, *PALETTE])
@pytest.mark.parametrize("ground", ["#ffffff", "#0d1117"])
def test_colors_are_readable_on_light_and_dark(color, ground):
    low, high = sorted((luminance(color), luminance(ground)))
    assert (high + 0.05) / (low + 0.05) > 4.2


def test_pareto_is_stable_and_transparent(record):
    rows = summarise(
        [record("none", role="teacher", macs=60e6), record("cdd"), record("kd", seed=0), record("kd", seed=1)]
    )
    svg = pareto_svg(rows)
    assert svg == pareto_svg(rows)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert not re.search(r"<dc:date>|Matplotlib v", svg)
    background = root.find(".//*[@id='patch_1']/*")
    assert background is not None and "fill: none" in background.get("style", "")


def test_pictures_ignore_the_users_settings(record):
    rows = summarise([record("cdd"), record("kd")])
    expected = pareto_svg(rows), compression_svg(TRACE)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.fonttype": "none"}):
        assert (pareto_svg(rows), compression_svg(TRACE)) == expected
    assert "matplotlib.pyplot" not in sys.modules


def test_pareto_of_one_row(record):
    assert "<svg" in pareto_svg(summarise([record("none", role="teacher")]))


def test_front():
    points = np.array([(2, 5), (1, 3), (3, 4), (4, 6), (1, 2), (4, 6)])
    assert _front(points).tolist() == [[1, 3], [2, 3], [2, 5], [4, 5], [4, 6]]


@pytest.mark.parametrize("seed", range(5))
def test_labels_cover_neither_each_other_nor_markers(seed):
    numbers = random.Random(seed)
    labels = [
        Label(numbers.choice([1.0, 2.0, 2.1]), numbers.gauss(5, 0.6), f"method{index}", NEUTRAL) for index in range(14)
    ]
    with canvas("", "") as (figure, axes):
        axes.set_xlim(0, 4)
        axes.set_ylim(2, 8)
        place_labels(axes, labels, [np.array([(0, 5), (4, 5)])])
        boxes = [text.get_window_extent() for text in axes.texts]
        markers = axes.transData.transform([(label.x, label.y) for label in labels])
        figure.draw_without_rendering()
    assert len(boxes) == len(labels)
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
    assert not any(box.contains(*marker) for box in boxes for marker in markers)
    assert all(axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1) for box in boxes)


@pytest.mark.parametrize("place", [1.0, 2.0, 3.2])
@pytest.mark.parametrize("seed", range(3))
def test_labels_of_a_crowd_stand_in_columns(place, seed):
    """All there, in the area, off the markers, in the order of the points on each side."""
    numbers = random.Random(seed)
    names = ["none", "kd", "metrics_from_teachers", "relaxed_contrastive"]
    crowd = [Label(place + 0.002 * (i % 3), numbers.gauss(5, 0.8), f"{names[i % 4]}", NEUTRAL) for i in range(30)]
    with canvas("", "") as (figure, axes):
        axes.set_xlim(0, 4)
        axes.set_ylim(2, 8)
        place_labels(axes, [*crowd, Label(2.6, 4, "teacher", NEUTRAL)], [])
        boxes = [text.get_window_extent() for text in axes.texts]
        markers = axes.transData.transform([(label.x, label.y) for label in crowd])
        figure.draw_without_rendering()
    assert len(boxes) == 31
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
    assert not any(box.contains(*marker) for box in boxes for marker in markers)
    assert all(axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1) for box in boxes)
    assert all(axes.bbox.containsy(box.y0) and axes.bbox.containsy(box.y1) for box in boxes)
    for side in (-1, 1):
        beside = [(y, box.y0) for (x, y), box in zip(markers, boxes, strict=False) if side * (box.x0 - x) > 0]
        assert [box for _, box in sorted(beside)] == sorted(box for _, box in beside)


def test_compression_is_stable():
    with_scores = [point | ({"mAP": 0.1 * point["epoch"]} if point["epoch"] % 2 else {}) for point in TRACE]
    assert compression_svg(TRACE) == compression_svg(TRACE)
    assert compression_svg(with_scores) != compression_svg(TRACE)
    assert "<svg" in compression_svg(TRACE[:1])


def test_line_labels_keep_their_distance():
    heights = _spread([38.0, 39.0, 40.0, 90.0])
    assert all(second - first >= _LINE_HEIGHT - 1e-9 for first, second in pairwise(heights))
    assert _spread([10.0, 50.0]).tolist() == [10.0, 50.0]
