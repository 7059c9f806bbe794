"""MSMT17: two versions, and validation in or out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.datasets.msmt17 import MSMT17, NAME
from benchmark.errors import UserError
from benchmark.experiment.experiment import Experiment
from benchmark.recipe import compose

TRAIN, TEST = (0, 1, 7, 1040), (0, 1, 3059)


def version(root, picture, name: str, train: str, test: str) -> None:
    folder = root / "msmt17" / name
    lists = {list_: [] for list_ in ("train", "val", "query", "gallery")}

    def add(list_: str, identity: int, number: int, camera: int) -> None:
        path = f"{identity:04}/{identity:04}_{number:03}_{camera:02}_0303morning_0015_{number}.jpg"
        picture(folder / (train if list_ in ("train", "val") else test) / path, identity)
        lists[list_].append(f"{path} {identity}\n")

    for identity in TRAIN:
        for number, list_ in enumerate(("train", "train", "val")):
            add(list_, identity, number, camera=number + 1)
    for identity in TEST:
        for number, list_ in enumerate(("query", "gallery", "gallery")):
            add(list_, identity, number, camera=15 - number)
    for list_, lines in lists.items():
        (folder / f"list_{list_}.txt").write_text("".join(lines))


def miniature(root, picture) -> None:
    version(root, picture, "MSMT17_V1", "train", "test")


def test_validation_is_left_out_unless_wanted(make, sizes):
    made = make("msmt17")
    without, with_ = made.open(), made.open(validation=True)
    assert sizes(without) == {"train": Split(8, 4, 2), "query": Split(3, 3, 1), "gallery": Split(6, 3, 2)}
    assert sizes(with_)["train"] == Split(12, 4, 3)
    assert (without.variant(), with_.variant()) == ({}, {"validation": True})
    assert (without.expected()["train"].images, with_.expected()["train"].images) == (None, 32_621)


def test_test_identities_are_others_though_their_numbers_start_anew(make):
    dataset = make("msmt17").open()
    assert {sample.identity for sample in dataset.train} == set(TRAIN)
    assert {sample.identity for sample in dataset.gallery} == {10_000 + identity for identity in TEST}
    assert {sample.camera for sample in dataset.query} == {15}


def test_the_second_version_is_told_apart(make, picture, tmp_path):
    version(tmp_path, picture, "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    only = MSMT17(tmp_path)
    assert len(only.train) == 8
    assert "mask_train_v2" in str(only.train[0].path)
    assert only.variant() == {"version": "v2"}


@pytest.mark.parametrize(("wanted", "folder"), [("auto", "train"), ("v1", "train"), ("v2", "mask_train_v2")])
def test_either_version_where_both_are_there(make, picture, wanted, folder):
    made = make("msmt17")
    version(made.root, picture, "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    dataset = made.open(version=wanted)
    assert dataset.train[0].path.parts[-3] == folder
    assert dataset.variant() == ({"version": "v2"} if wanted == "v2" else {})


def test_a_version_that_is_not_there(make):
    with pytest.raises(UserError, match="mask_train_v2"):
        _ = make("msmt17").open(version="v2").train


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0000/0000_000_01_0303morning_0015_0.jpg 1", "is not an image of identity 1"),
        ("0000/0000.jpg 0", "is not an image of identity 0"),
        ("0000/0000_000_01_0303morning_0099_0.jpg 0", "is listed but missing"),
        ("0000/0000_000_01_0303morning_0015_0.jpg", "expected 2 fields"),
    ],
)
def test_a_row_that_is_not_as_published(make, row, said):
    made = make("msmt17")
    file = made.open().folder / "list_query.txt"
    file.write_text(f"{file.read_text()}{row}\n")
    assert any(said in difference for difference in check(made.open()).differences)


@given(st.integers(0, 9999), st.integers(0, 999), st.integers(1, 15), st.sampled_from(["0303morning", "0114noon"]))
def test_every_official_path_is_read(identity, number, camera, time):
    path = f"{identity:04}/{identity:04}_{number:03}_{camera:02}_{time}_0015_0.jpg"
    match = NAME.fullmatch(path)
    assert (int(match["identity"]), int(match["camera"])) == (identity, camera)


def test_runs_on_the_two_versions_are_two_runs(make, picture, tmp_path):
    first = make("msmt17").root
    version(tmp_path / "second", picture, "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    recipe = compose("kd", "msmt17")
    runs = [Experiment(recipe, tmp_path, root, torch.device("cpu"), False) for root in (first, tmp_path / "second")]
    assert [run.recipe.dataset.arguments["version"] for run in runs] == ["v1", "v2"]
    assert runs[0].folder != runs[1].folder
    assert runs[0].teacher_record != runs[1].teacher_record


@pytest.mark.parametrize("validation", [False, True])
def test_the_total_is_checked_whether_validation_is_used_or_not(make, validation):
    made = make("msmt17")
    dataset = made.open(validation=validation)
    assert dataset.counts()["all"] == Split(21, 7, 6)
    assert dataset.expected()["all"] == Split(126_441, 4_101, 15)
    file = dataset.folder / "list_train.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:5]))
    assert made.open(validation=validation).counts()["all"].images == 18


def test_validation_that_is_left_out_is_counted(make):
    made = make("msmt17")
    assert made.open().listings["train"].skipped == {"image of a list that is not used": 4}
    assert made.open(validation=True).listings["train"].skipped == {}
