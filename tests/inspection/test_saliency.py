"""Saliency of a match."""

import base64
import io
import re

import pytest
import torch
from PIL import Image

from benchmark.inspection import Saliency, inspection_page, saliency
from benchmark.inspection.saliency import GRID


def corner_network(images):
    """The mean colors of the upper left quarter of each image."""
    height, width = images.shape[2:]
    return images[:, :, : height // 2, : width // 2].float().mean((2, 3))


def colored(height, width, color):
    image = torch.full((3, height, width), 200, dtype=torch.uint8)
    image[:, : height // 2, : width // 2] = torch.tensor(color, dtype=torch.uint8)[:, None, None]
    return image


@pytest.mark.parametrize("size", [(32, 32), (48, 16), (5, 7)])
def test_only_the_parts_that_matter_are_salient(size):
    first, second = colored(*size, (255, 0, 0)), colored(*size, (250, 10, 0))
    maps = saliency(corner_network, first, second)
    for values in maps:
        assert values.shape == (GRID, GRID)
        assert values[5:, :].abs().max() == values[:, 5:].abs().max() == 0
        if min(size) >= GRID:
            assert values[:4, :4].min() > 0


def test_values_are_drops_of_the_similarity():
    """Naive: each cell is the mean over the hidden squares that contain it."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8, generator=generator)

    def network(images):
        return images.float().flatten(1)[:, ::5] - 100

    def similarity(a, b):
        return torch.cosine_similarity(network(a[None]), network(b[None])).item()

    sums, counts = torch.zeros(GRID, GRID), torch.zeros(GRID, GRID)
    for row in range(GRID - 1):
        for column in range(GRID - 1):
            hidden = first.clone()
            mean = first.float().mean((1, 2)).round().byte()
            hidden[:, 2 * row : 2 * row + 4, 3 * column : 3 * column + 6] = mean[:, None, None]
            sums[row : row + 2, column : column + 2] += similarity(first, second) - similarity(hidden, second)
            counts[row : row + 2, column : column + 2] += 1
    torch.testing.assert_close(saliency(network, first, second).first, sums / counts, atol=1e-5, rtol=0)


def test_page_shows_both_images(inspection, names):
    query = inspection.worst[1]
    values = torch.zeros(GRID, GRID)
    values[0, 0] = 1.0
    paths = (query.sample.path, query.student.first.sample.path)
    text = inspection_page(
        inspection, title="kd", facts={}, names=names, saliencies={paths: Saliency(values, torch.zeros(GRID, GRID))}
    )
    assert text.count("<details>") == 2  # the query is one of the worst, and of the largest drops
    jpegs = re.findall(r"style=\"background-image: url\(data:image/jpeg;base64,([^)]*)\)", text)
    shown, other = (Image.open(io.BytesIO(base64.b64decode(jpeg))).convert("L") for jpeg in jpegs[:2])
    assert max(shown.size) == max(other.size) == 96


def test_first_match_skips_ignored_entries(inspection):
    (query,) = (each for each in inspection.worst if each.student.entries[0].rank is None)
    assert query.student.first == query.student.entries[1]
