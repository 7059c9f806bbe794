"""Contact sheets."""

import numpy as np
import pytest
from PIL import Image

from benchmark.data.contact_sheet import contact_sheet
from benchmark.errors import UserError

CELL_PIXELS = 36 * 72
"""Pixels of a 20 x 40 image in a cell: full height, aspect ratio kept."""


@pytest.fixture
def dataset(generate):
    """Red images: two training identities with two cameras."""
    return generate(
        {"train": [(5, 0), (5, 1), (31, 0), (31, 1)], "query": [(7, 0), (8, 0)], "gallery": [(7, 1), (8, 1)]}
    )


def red_pixels(path) -> int:
    return int((np.asarray(Image.open(path)) == (255, 0, 0)).all(-1).sum())


def test_images_keep_their_aspect_ratio(dataset, tmp_path):
    target = tmp_path / "new" / "sheet.png"
    contact_sheet(dataset, "train", 9, target)
    assert red_pixels(target) == 4 * CELL_PIXELS
    assert [path.name for path in target.parent.iterdir()] == ["sheet.png"]


def test_broken_image_has_a_placeholder(dataset, tmp_path):
    contact_sheet(dataset, "train", 9, tmp_path / "complete.png")
    dataset.train[0].path.write_bytes(b"")
    contact_sheet(dataset, "train", 9, tmp_path / "sheet.png")
    assert red_pixels(tmp_path / "sheet.png") == 3 * CELL_PIXELS
    assert Image.open(tmp_path / "sheet.png").size == Image.open(tmp_path / "complete.png").size


@pytest.mark.parametrize(("split", "rows"), [("test", 3), ("train", 0)])
def test_rejects_unknown_split_and_no_rows(dataset, tmp_path, split, rows):
    with pytest.raises(UserError, match="train, query, gallery"):
        contact_sheet(dataset, split, rows, tmp_path / "sheet.png")
