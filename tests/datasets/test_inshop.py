"""In-Shop: the list of images."""

import pytest

from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.errors import UserError

TRAIN, TEST = (1, 2, 5, 9), (3, 4, 7981)


def write_miniature(root, write_image) -> None:
    folder, rows = root / "inshop", []

    def add(item: int, image: int, status: str) -> None:
        name = f"img/WOMEN/Dresses/id_{item:08}/{image:02}_1_front.jpg"
        write_image(folder / "Img" / name, item, size=(32, 32))
        rows.append(f"{name:70} id_{item:08} {status}")

    for item in TRAIN:
        for image in range(1, 4):
            add(item, image, "train")
    for item in TEST:
        add(item, 1, "query")
        add(item, 2, "gallery")
        add(item, 3, "gallery")
    (folder / "Eval").mkdir(exist_ok=True)
    text = "\n".join([str(len(rows)), "image_name item_id evaluation_status", *rows, ""])
    (folder / "Eval" / "list_eval_partition.txt").write_text(text)
    (folder / "Anno").mkdir(exist_ok=True)
    (folder / "README.txt").write_text("In-shop")


@pytest.fixture
def partition(make, tmp_path):
    """`partition(edit)` changes the lines of the list and opens the dataset."""
    miniature = make("inshop", tmp_path / "changed")
    file = miniature.open().folder / "Eval" / "list_eval_partition.txt"

    def change(edit, end="\n"):
        file.write_bytes(end.join([*edit(file.read_text().splitlines()), ""]).encode())
        return miniature.open()

    return change


def test_query_and_gallery_are_separate(make, sizes):
    dataset = make("inshop").open()
    assert sizes(dataset) == {"train": Split(12, 4, 1), "query": Split(3, 3, 1), "gallery": Split(6, 3, 1)}
    assert dataset.protocol.recall_at == (1, 10, 20, 30, 40, 50)
    assert not dataset.protocol.camera_rule
    assert not dataset.protocol.query_in_gallery


def test_header_does_not_hide_the_first_image(make):
    assert "id_00000001/01_1_front.jpg" in str(make("inshop").open().train[0].path)


def test_images_and_list_may_be_in_one_folder(make):
    miniature = make("inshop")
    folder = miniature.open().folder
    before = [sample.identity for sample in miniature.open().train]
    (folder / "Img" / "img").rename(folder / "img")
    (folder / "Eval" / "list_eval_partition.txt").rename(folder / "list_eval_partition.txt")
    assert [sample.identity for sample in miniature.open().train] == before


def test_windows_line_ends(make, partition):
    before = make("inshop").open()
    after = partition(lambda lines: lines, end="\r\n")
    for split in ("train", "query", "gallery"):
        both = [[sample[1:] for sample in getattr(dataset, split)] for dataset in (before, after)]
        assert both[0] == both[1]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda lines: [*lines[:4], *lines[5:]], "the first line states '21' images, but there are 20 rows"),
        (
            lambda lines: [*lines[:2], lines[2].replace("train", "trian"), *lines[3:]],
            "line 3: expected id_<8 digits> and a split, not 'id_00000001' 'trian'",
        ),
        (
            lambda lines: [*lines[:2], lines[2].replace(" id_", " "), *lines[3:]],
            "line 3: expected id_<8 digits> and a split, not '00000001' 'train'",
        ),
        (lambda lines: [*lines[:2], "img/a.jpg train", *lines[3:]], "line 3: expected 3 fields"),
        (
            lambda lines: [*lines[:2], lines[2].replace("/01_", "/09_"), *lines[3:]],
            "09_1_front.jpg is listed but",
        ),
        (lambda _: [], "the first line states '' images, but there are 0 rows"),
    ],
)
def test_defects_of_the_list(partition, edit, message):
    dataset = partition(edit)
    assert any(message in defect for defect in check(dataset).defects), check(dataset).defects
    with pytest.raises(UserError):
        _ = dataset.train
