import random
from itertools import combinations

import numpy as np
import pytest

from benchmark.plots.labels import Label, place_labels
from benchmark.plots.style import NEUTRAL, canvas


def draw(labels, lines=()):
    """The boxes of the labels, their points in pixels, and the area of the axes."""
    with canvas("", "") as (figure, axes):
        axes.set_xlim(0, 4)
        axes.set_ylim(2, 8)
        place_labels(axes, labels, lines)
        boxes = [text.get_window_extent() for text in axes.texts]
        points = axes.transData.transform([(label.x, label.y) for label in labels])
        figure.draw_without_rendering()
    return boxes, points, axes.bbox


def check(labels, boxes, points, area):
    """Every label is there, inside the area, and covers neither another label nor a point."""
    assert len(boxes) == len(labels)
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert all(area.containsx(box.x0) and area.containsx(box.x1) for box in boxes)
    assert all(area.containsy(box.y0) and area.containsy(box.y1) for box in boxes)


@pytest.mark.parametrize("seed", range(5))
def test_labels_do_not_overlap(seed):
    rng = random.Random(seed)
    labels = [Label(rng.choice([1.0, 2.0, 2.1]), rng.gauss(5, 0.6), f"method{index}", NEUTRAL) for index in range(14)]
    check(labels, *draw(labels, [np.array([(0, 5), (4, 5)])]))


@pytest.mark.parametrize("x", [1.0, 2.0, 3.2])
@pytest.mark.parametrize("seed", range(3))
def test_labels_of_a_crowd_form_columns(x, seed):
    rng = random.Random(seed)
    names = ["none", "kd", "metrics_from_teachers", "relaxed_contrastive"]
    crowd = [Label(x + 0.002 * (i % 3), rng.gauss(5, 0.8), f"{names[i % 4]}", NEUTRAL) for i in range(30)]
    labels = [*crowd, Label(2.6, 4, "teacher", NEUTRAL)]
    boxes, points, area = draw(labels)
    points = points[:-1]  # a column may cover the single point
    check(labels, boxes, points, area)
    for side in (-1, 1):  # in the order of the points on both sides
        column = [(y, box.y0) for (x_, y), box in zip(points, boxes[:-1], strict=True) if side * (box.x0 - x_) > 0]
        assert [box for _, box in sorted(column)] == sorted(box for _, box in column)
