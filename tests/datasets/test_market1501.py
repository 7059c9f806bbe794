"""Market-1501: file names, junk and distractors."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.check import check, remarks
from benchmark.datasets.market1501 import FILE_NAME, Market1501

TRAIN, TEST = (2, 7, 10, 1500), (1, 3, 4)


def write_miniature(root, write_image) -> None:
    folder = root / "market1501" / "Market-1501-v15.09.15"
    for identity in TRAIN:
        for camera in (1, 3, 6):
            write_image(folder / "bounding_box_train" / f"{identity:04}_c{camera}s1_000451_03.jpg", identity)
    for identity in TEST:
        write_image(folder / "query" / f"{identity:04}_c1s1_001051_00.jpg", identity)
        for camera in (1, 2, 5):
            write_image(folder / "bounding_box_test" / f"{identity:04}_c{camera}s2_001076_01.jpg", identity)
    for camera in (1, 2, 3, 4):
        write_image(folder / "bounding_box_test" / f"-1_c{camera}s1_000401_03.jpg", 99)
    for camera in (1, 4):
        write_image(folder / "bounding_box_test" / f"0000_c{camera}s1_000151_01.jpg", 98)
    write_image(folder / "gt_bbox" / "0001_c1s1_001051_00.jpg", 1)
    for split in ("bounding_box_train", "bounding_box_test", "query"):
        (folder / split / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "readme.txt").write_text("Market-1501")


def test_junk_is_left_out_and_distractors_are_kept(make):
    dataset = make("market1501").open()
    assert Counter(sample.identity for sample in dataset.gallery) == {0: 2, 1: 3, 3: 3, 4: 3}
    assert {sample.camera for sample in dataset.train} == {1, 3, 6}
    assert list(dataset.labels) == list(TRAIN)
    assert dataset.protocol.camera_rule


def test_remarks_count_skipped_files(make):
    assert remarks(make("market1501").open())[:8] == [
        "read: 12 training, 3 query and 11 gallery images",
        "ignored: train: 1 file: not an image (.db: 1)",
        "ignored: query: 1 file: not an image (.db: 1)",
        "ignored: gallery: 4 files: junk, identity -1",
        "ignored: gallery: 1 file: not an image (.db: 1)",
        "protocol: camera rule on, 4 cameras: gallery images of the query's identity and camera are ignored",
        "protocol: query and gallery are separate: every query searches the whole gallery",
        "warning: train: expected 12,936 images, found 12",
    ]


@pytest.mark.parametrize(
    "folder", ["market1501", "market1501/Market-1501-v15.09.15", "market1501/market", "Market-1501-v15.09.15"]
)
def test_possible_folders(make, tmp_path, folder):
    miniature = make("market1501")
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    miniature.open().folder.rename(tmp_path / folder)
    assert Market1501(tmp_path).folder == tmp_path / folder
    assert len(Market1501(tmp_path).train) == 12


def test_unused_copies_are_noted(make):
    official = make("market1501").open().folder
    for copy in (official.parent / "A_copy", official.parent):
        shutil.copytree(official, copy, dirs_exist_ok=True)
        dataset = Market1501(official.parents[1])
        assert dataset.folder == official
        assert f"note: the copy at {copy} is not used" in remarks(dataset)


@pytest.mark.parametrize(
    "name", ["2_c1s1_000451_03.jpg", "0002_c7s1_000451_03.jpg", "0002.jpg", "0002_c1s1_000451_03.png"]
)
def test_other_file_names_are_defects(make, write_image, name):
    miniature = make("market1501")
    other = miniature.open().folder / "query" / name
    write_image(other)
    report = check(miniature.open())
    assert any(str(other) in defect for defect in report.defects)


@given(st.integers(-1, 9999), st.integers(1, 6), st.integers(0, 9), st.integers(0, 999_999), st.integers(0, 99))
def test_official_file_names_match(identity, camera, sequence, frame, box):
    number = "-1" if identity == -1 else f"{identity:04}"
    match = FILE_NAME.fullmatch(f"{number}_c{camera}s{sequence}_{frame:06}_{box:02}.jpg")
    assert (int(match["identity"]), int(match["camera"])) == (identity, camera)


@given(st.text())
def test_other_suffixes_do_not_match(text):
    match = FILE_NAME.fullmatch(text)
    assert match is None or Path(text).suffix == ".jpg"


def test_other_images_in_the_same_layout_are_not_taken_for_the_dataset(make):
    dataset = make("market1501").open()
    text = (
        "by their counts, these are not the published images of Market-1501: results go to a leaderboard of their own"
    )
    assert remarks(dataset)[-1].startswith(f"warning: {text}")
    assert text in str(check(dataset))
