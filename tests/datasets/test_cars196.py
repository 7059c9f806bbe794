"""Cars196: both forms of the archive, and both splits."""

import os

import numpy as np
import pytest
from scipy.io import savemat

from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.errors import UserError

MODELS, EACH = (1, 2, 98, 99, 196), 4
BOX = {"bbox_x1": 1, "bbox_y1": 1, "bbox_x2": 9, "bbox_y2": 9}


def write_annotations(file, entries) -> None:
    """Write a list of dictionaries as Matlab stores it: an array of structures."""
    types = [(name, object) for name in entries[0]]
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"annotations": np.array([tuple(entry.values()) for entry in entries], dtype=types)})


def images():
    """Return (model, whether the archive uses it for testing, number) of every image."""
    return [(model, image % 2 == 1, EACH * row + image) for row, model in enumerate(MODELS) for image in range(EACH)]


def write_miniature(root, write_image) -> None:
    folder, entries = root / "cars196", []
    for model, test, number in images():
        path = f"car_ims/{number + 1:06}.jpg"
        write_image(folder / path, model, size=(24, 40))
        entries.append({"relative_im_path": path, **BOX, "class": model, "test": int(test)})
    write_annotations(folder / "cars_annos.mat", entries)


def write_halves(root, write_image) -> None:
    folder = root / "cars196"
    for half, where in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        entries = []
        for model, *_ in (entry for entry in images() if entry[1] == (half == "test")):
            name = f"{len(entries) + 1:05}.jpg"
            write_image(folder / f"cars_{half}" / name, model, size=(24, 40))
            entries.append({**BOX, "class": model, "fname": name})
        write_annotations(folder / where, entries)


@pytest.fixture(params=["one folder", "two folders"])
def miniature(request, make, tmp_path, write_image):
    if request.param == "one folder":
        return make("cars196")
    miniature = make("cars196", tmp_path / "elsewhere")
    miniature.root = tmp_path / "halves"
    write_halves(miniature.root, write_image)
    return miniature


def test_zero_shot_is_the_default(miniature, sizes):
    dataset = miniature.open()
    assert sizes(dataset) == {"train": Split(12, 3, 1), "query": Split(8, 2, 1), "gallery": Split(8, 2, 1)}
    assert {sample.identity for sample in dataset.query} == {99, 196}
    assert dataset.protocol.recall_at == (1, 2, 4, 8)


def test_closed_set_is_a_non_default_option(miniature, sizes):
    dataset = miniature.open(split="closed")
    assert sizes(dataset) == {"train": Split(10, 5, 1), "query": Split(10, 5, 1), "gallery": Split(10, 5, 1)}
    assert dataset.non_default_options() == {"split": "closed"}
    assert dataset.expected_sizes()["train"] == Split(8_144, 196, 1)


def test_total_is_checked(miniature, monkeypatch):
    dataset = miniature.open()
    monkeypatch.setattr(dataset, "expected_sizes", lambda: {"all": dataset.card.splits["all"]})
    assert "all: expected 16,185 images, found 20" in check(dataset).defects


@pytest.mark.parametrize("content", [b"", b"not Matlab" * 100, None])
def test_rejects_files_that_are_not_matlab(make, content):
    miniature = make("cars196")
    file = miniature.open().folder / "cars_annos.mat"
    if content is None:
        file.unlink()
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"cars_annos\.mat is damaged, or not a Matlab file with relative_im_path"):
        _ = miniature.open().train


def test_damaged_matlab_file(make):
    miniature = make("cars196")
    file = miniature.open().folder / "cars_annos.mat"
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], b"\xef\xbb\xbf" + content, content + b"\xff\n"):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"is damaged, or not a Matlab file with .* of every image: restore it"):
            _ = miniature.open().train


def test_rejects_annotations_without_a_field(make):
    miniature = make("cars196")
    write_annotations(
        miniature.open().folder / "cars_annos.mat", [{"relative_im_path": "car_ims/000001.jpg", "class": 1}] * 2
    )
    with pytest.raises(
        UserError, match=r"cars_annos\.mat is damaged, or not a Matlab file with .* test of every image"
    ):
        _ = miniature.open().train
