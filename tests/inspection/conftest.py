"""A small dataset of images, and hand-written scores of a student and a teacher on it."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.data.samples import Sample
from benchmark.inspection import inspect
from benchmark.retrieval import Neighbors, Scores

SIZES = (40, 30), (200, 100), (16, 48)
BROKEN = 3
"""Index of the gallery image that cannot be decoded."""


class HostileNames:
    """Names that would be markup if they were not escaped."""

    background_color = (255, 255, 255)

    def identity_name(self, identity):
        return f'<b id="{identity}">Zoë & Bob\'s</b>'

    def camera_name(self, camera):
        return f'" onload="{camera}'


@pytest.fixture
def names():
    return HostileNames()


@pytest.fixture
def samples(tmp_path):
    """Four queries and a gallery of six images, each image of a different color and with a hostile file name."""
    samples = []
    for index in range(10):
        path = tmp_path / f"{index}<&>.png"
        Image.fromarray(np.full((*SIZES[index % 3], 3), 25 * index, dtype=np.uint8)).save(path)
        samples.append(Sample(path, index % 3, index % 2))
    samples[4 + BROKEN].path.write_bytes(b"not an image")
    return samples[:4], samples[4:]


def scores(average_precision, gallery_index, relevance):
    """Scores with these average precisions (NaN: a skipped query) and ranked lists."""
    values = torch.tensor(average_precision, dtype=torch.float64)
    positives = (~values.isnan()).long() * 2
    similarity = torch.linspace(0.9, 0.1, len(gallery_index[0])).expand(len(gallery_index), -1)
    neighbors = Neighbors(torch.tensor(gallery_index), similarity, torch.tensor(relevance, dtype=torch.int8))
    precision = values[:, None].expand(-1, 2)
    first_match_rank = positives * 2  # rank 4
    return Scores((1, 5), positives, first_match_rank, values, values, values, values, precision, neighbors=neighbors)


@pytest.fixture
def student():
    gallery_index = [[0, 1, 2], [3, 2, 1], [5, 4, 3], [1, 2, 3]]
    return scores([0.5, 0.1, math.nan, 0.5], gallery_index, [[-1, 0, 1], [0, 0, 0], [-1, -1, -1], [1, -1, 0]])


@pytest.fixture
def teacher():
    gallery_index = [[1, 0, 2], [0, 2, 3], [4, 5, 3], [2, 1, 3]]
    return scores([0.75, 0.05, math.nan, 0.5], gallery_index, [[1, -1, 0], [0, 0, 0], [-1, -1, -1], [-1, 1, 0]])


@pytest.fixture
def inspection(samples, student, teacher):
    """All queries of student and teacher."""
    return inspect(*samples, student=student, teacher=teacher, count=20)


@pytest.fixture
def without_teacher(samples, student):
    """All queries of the student alone."""
    return inspect(*samples, student=student, count=20)
