"""Cars196: the two forms in which its archives come, and the two splits."""

import numpy as np
import pytest
from scipy.io import savemat

from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.errors import UserError

MODELS, EACH = (1, 2, 98, 99, 196), 4
BOX = {"bbox_x1": 1, "bbox_y1": 1, "bbox_x2": 9, "bbox_y2": 9}


def annotations(file, entries) -> None:
    """Write a list of dictionaries as Matlab keeps it: an array of structures."""
    types = [(name, object) for name in entries[0]]
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"annotations": np.array([tuple(entry.values()) for entry in entries], dtype=types)})


def images():
    """(model, whether it is in the test half, number within all images)."""
    return [(model, image % 2 == 1, EACH * row + image) for row, model in enumerate(MODELS) for image in range(EACH)]


def miniature(root, picture) -> None:
    folder, entries = root / "cars196", []
    for model, test, number in images():
        path = f"car_ims/{number + 1:06}.jpg"
        picture(folder / path, model, size=(24, 40))
        entries.append({"relative_im_path": path, **BOX, "class": model, "test": int(test)})
    annotations(folder / "cars_annos.mat", entries)


def in_halves(root, picture) -> None:
    folder = root / "cars196"
    for half, where in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        entries = []
        for model, *_ in (entry for entry in images() if entry[1] == (half == "test")):
            name = f"{len(entries) + 1:05}.jpg"
            picture(folder / f"cars_{half}" / name, model, size=(24, 40))
            entries.append({**BOX, "class": model, "fname": name})
        annotations(folder / where, entries)


@pytest.fixture(params=[False, True], ids=["one archive", "two halves"])
def made(request, make, tmp_path, picture):
    if not request.param:
        return make("cars196")
    made = make("cars196", tmp_path / "elsewhere")
    made.root = tmp_path / "halves"
    in_halves(made.root, picture)
    return made


def test_zero_shot_is_the_default(made, sizes):
    dataset = made.open()
    assert sizes(dataset) == {"train": Split(12, 3, 1), "query": Split(8, 2, 1), "gallery": Split(8, 2, 1)}
    assert {sample.identity for sample in dataset.query} == {99, 196}
    assert dataset.protocol.recall_at == (1, 2, 4, 8)


def test_the_closed_set_is_an_option_that_is_told_apart(made, sizes):
    dataset = made.open(split="closed")
    assert sizes(dataset) == {"train": Split(10, 5, 1), "query": Split(10, 5, 1), "gallery": Split(10, 5, 1)}
    assert dataset.variant() == {"split": "closed"}
    assert dataset.expected()["train"] == Split(8_144, 196, 1)


def test_the_total_is_checked(made, monkeypatch):
    dataset = made.open()
    monkeypatch.setattr(dataset, "expected", lambda: {"all": dataset.card.splits["all"]})
    assert "all: expected 16,185 images, found 20" in check(dataset).differences


@pytest.mark.parametrize("content", [b"", b"not Matlab" * 100])
def test_annotations_that_cannot_be_read(make, content):
    made = make("cars196")
    file = made.open().folder / "cars_annos.mat"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"cars_annos\.mat is not a Matlab file with relative_im_path"):
        _ = made.open().train


def test_annotations_without_a_field(make):
    made = make("cars196")
    annotations(made.open().folder / "cars_annos.mat", [{"relative_im_path": "car_ims/000001.jpg", "class": 1}] * 2)
    with pytest.raises(UserError, match=r"cars_annos\.mat is not a Matlab file with .* test of every image"):
        _ = made.open().train
