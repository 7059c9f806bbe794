"""CUB-200-2011: the three lists, and both splits."""

import pytest
from PIL import Image

from benchmark.data.card import Split
from benchmark.data.check import check, remarks
from benchmark.errors import UserError

SPECIES = {
    1: "Black_footed_Albatross",
    2: "Laysan_Albatross",
    100: "Brown_Pelican",
    101: "White_Pelican",
    200: "Yellowthroat",
}
EACH = 4


def write_miniature(root, write_image) -> None:
    folder = root / "cub200" / "CUB_200_2011"
    names, classes, splits, number = [], [], [], 0
    for species, name in SPECIES.items():
        for image in range(EACH):
            number += 1
            path = f"{species:03}.{name}/{name}_{image:04}_{number}.jpg"
            write_image(folder / "images" / path, species, size=(30, 40))
            names.append(f"{number} {path}\n")
            classes.append(f"{number} {species}\n")
            splits.append(f"{number} {image % 2}\n")
    for file, lines in (("images", names), ("image_class_labels", classes), ("train_test_split", splits)):
        (folder / f"{file}.txt").write_text("".join(lines))
    gray = folder / "images" / names[3].split()[1]
    Image.open(gray).convert("L").save(gray)
    (gray.parent / f"._{gray.name}").write_bytes(b"\0")
    (folder / "bounding_boxes.txt").write_text("1 0.0 0.0 10.0 10.0\n")
    (folder / "README").write_text("CUB")
    (root / "cub200" / "attributes.txt").write_text("1 has_bill_shape::curved\n")


def edit(dataset, file, change) -> None:
    path = dataset.folder / file
    path.write_bytes("".join(change(path.read_text().splitlines(keepends=True))).encode())


def test_zero_shot_is_the_default(make, sizes):
    dataset = make("cub200").open()
    assert sizes(dataset) == {"train": Split(12, 3, 1), "query": Split(8, 2, 1), "gallery": Split(8, 2, 1)}
    assert max(sample.identity for sample in dataset.train) == 100
    assert dataset.protocol.recall_at == (1, 2, 4, 8)
    assert (dataset.protocol.query_in_gallery, dataset.protocol.camera_rule) == (True, False)


def test_closed_set_is_a_non_default_option(make, sizes):
    dataset = make("cub200").open(split="closed")
    assert sizes(dataset) == {"train": Split(10, 5, 1), "query": Split(10, 5, 1), "gallery": Split(10, 5, 1)}
    assert dataset.non_default_options() == {"split": "closed"}
    assert dataset.expected_sizes()["train"] == Split(5_994, 200, 1)
    assert dataset.expected_sizes()["query"] == Split(5_794, 200, 1)


def test_hidden_files_are_counted(make):
    assert "ignored: train: 1 file: hidden" in remarks(make("cub200").open())


def test_windows_line_ends(make):
    miniature = make("cub200")
    before = miniature.open()
    for file in ("images.txt", "image_class_labels.txt", "train_test_split.txt"):
        edit(before, file, lambda lines: [line.replace("\n", "\r\n") for line in lines])
    after = miniature.open()
    assert (before.train, before.query) == (after.train, after.query)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("image_class_labels.txt", lambda lines: lines[1:], "image_class_labels.txt has no line for image 1"),
        ("images.txt", lambda lines: lines[:-1], "images.txt has no line for image 20"),
        ("images.txt", lambda lines: ["1\n", *lines[1:]], "images.txt, line 1: expected 2 fields"),
        ("image_class_labels.txt", lambda lines: ["1 one\n", *lines[1:]], "line 1: expected integers in columns 1, 2"),
        ("image_class_labels.txt", lambda lines: ["1 2\n", *lines[1:]], "but of class 2"),
        ("train_test_split.txt", lambda _: ["\xff\xfe"], "has no line for image 1"),
        ("train_test_split.txt", lambda lines: [*lines, "3 1\n"], "line 21: image 3 is listed twice"),
        ("images.txt", lambda lines: [lines[0].replace("001.", "001.../"), *lines[1:]], "is listed but missing"),
    ],
)
def test_defects_of_the_lists(make, file, change, message):
    miniature = make("cub200")
    edit(miniature.open(), file, change)
    with pytest.raises(UserError, match=r"benchmark data check cub200"):
        _ = miniature.open().train
    assert any(message in defect for defect in check(miniature.open()).defects), check(miniature.open()).defects


def test_list_that_is_not_text(make):
    miniature = make("cub200")
    (miniature.open().folder / "images.txt").write_bytes(b"\xff1 \x00")
    assert "is not text in UTF-8" in check(miniature.open()).defects[0]


def test_unlisted_images_are_counted(make, write_image):
    miniature = make("cub200")
    write_image(miniature.open().folder / "images" / "001.Black_footed_Albatross" / "more.jpg")
    assert "ignored: train: 1 file: image that is in no list" in remarks(miniature.open())
