"""Stanford Online Products: both lists."""

from collections import Counter
from pathlib import Path

import pytest

from benchmark.data.card import Split
from benchmark.data.check import check

TRAIN, TEST = (1, 2, 11318), (11319, 22634)


def write_miniature(root, write_image) -> None:
    folder, number = root / "sop" / "Stanford_Online_Products", 0
    for name, products in (("train", TRAIN), ("test", TEST)):
        rows = []
        for product in products:
            for image in range(3):
                number += 1
                path = f"bicycle_final/{111085122871 + product}_{image}.JPG"
                write_image(folder / path, product, size=(36, 30), format="JPEG")
                rows.append(f"{number} {product} 1 {path}")
        (folder / f"Ebay_{name}.txt").write_text("\n".join(["image_id class_id super_class_id path", *rows]))
    (folder / "Ebay_info.txt").write_text("image_id class_id super_class_id path\n")


def test_sizes(make, sizes):
    dataset = make("sop").open()
    assert sizes(dataset) == {"train": Split(9, 3, 1), "query": Split(6, 2, 1), "gallery": Split(6, 2, 1)}
    assert dataset.protocol.recall_at == (1, 10, 100, 1000)
    assert dataset.protocol.query_in_gallery


def test_image_listed_twice(make):
    miniature = make("sop")
    file = miniature.open().folder / "Ebay_test.txt"
    file.write_text(f"{file.read_text()}\n{file.read_text().splitlines()[1]}")
    assert check(miniature.open()).defects[0].endswith("_0.JPG is listed twice")


@pytest.mark.parametrize("row", ["3 1 1", "3 one 1 bicycle_final/1.JPG", "3 1 1 bicycle_final/1.JPG"])
def test_defects_of_a_row(make, row):
    miniature = make("sop")
    file = miniature.open().folder / "Ebay_train.txt"
    file.write_text(f"{file.read_text()}\n{row}\n")
    first = check(miniature.open()).defects[0]
    assert "line 11" in first or "bicycle_final/1.JPG is listed but missing" in first


def test_folder_is_located_once_not_for_every_row(make, monkeypatch):
    dataset, calls = make("sop").open(), []
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: calls.append(self) or exists(self))
    assert len(dataset.train) == 9
    assert max(Counter(calls).values()) < 9
