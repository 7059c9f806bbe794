"""A small set of images, and scores of them."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data.samples import Sample
from benchmark.inspection import inspect
from benchmark.retrieval import Neighbours, Scores

SIDES = (40, 30), (200, 100), (16, 48)
BROKEN = 3
"""The gallery image that cannot be decoded."""


class TrickyNames:
    """Names that mean something in HTML."""

    def identity_name(self, identity):
        return f'<b id="{identity}">Zoë & Bob\'s</b>'

    def camera_name(self, camera):
        return f'" onload="{camera}'


@pytest.fixture
def names():
    return TrickyNames()


@pytest.fixture
def samples(tmp_path):
    """Four queries, then a gallery of six, each image of its own colour."""
    made = []
    for index in range(10):
        path = tmp_path / f"{index}<&>.png"
        Image.fromarray(np.full((*SIDES[index % 3], 3), 25 * index, dtype=np.uint8)).save(path)
        made.append(Sample(path, index % 3, index % 2))
    made[4 + BROKEN].path.write_bytes(b"no image")
    return made[:4], made[4:]


def scores(average_precision, columns, relation):
    """Scores whose query has this average precision; NaN for a skipped one."""
    values = torch.tensor(average_precision, dtype=torch.float64)
    positives = (~values.isnan()).long() * 2
    similarity = torch.linspace(0.9, 0.1, len(columns[0])).expand(len(columns), -1)
    neighbours = Neighbours(torch.tensor(columns), similarity, torch.tensor(relation, dtype=torch.int8))
    precision = values[:, None].expand(-1, 2)
    hits = positives * 2  # rank 4
    return Scores((1, 5), positives, hits, values, values, values, values, precision, neighbours=neighbours)


@pytest.fixture
def student():
    columns = [[0, 1, 2], [3, 2, 1], [5, 4, 3], [1, 2, 3]]
    return scores([0.5, 0.1, math.nan, 0.5], columns, [[-1, 0, 1], [0, 0, 0], [-1, -1, -1], [1, -1, 0]])


@pytest.fixture
def teacher():
    columns = [[1, 0, 2], [0, 2, 3], [4, 5, 3], [2, 1, 3]]
    return scores([0.75, 0.05, math.nan, 0.5], columns, [[1, -1, 0], [0, 0, 0], [-1, -1, -1], [-1, 1, 0]])


@pytest.fixture
def compared(samples, student, teacher):
    """Student and teacher on all queries."""
    return inspect(*samples, student, teacher, 20)


@pytest.fixture
def alone(samples, student):
    """The student without a teacher."""
    return inspect(*samples, student, None, 20)
