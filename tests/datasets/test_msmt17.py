"""MSMT17: both versions, with and without the validation list."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.data.check import sizes as sizes_on_disk
from benchmark.datasets.msmt17 import FILE_NAME, MSMT17
from benchmark.errors import UserError
from benchmark.experiment.experiment import Experiment
from benchmark.recipe import compose

TRAIN, TEST = (0, 1, 7, 1040), (0, 1, 3059)


def write_version(root, write_image, name: str, train: str, test: str) -> None:
    folder = root / "msmt17" / name
    lists = {list_: [] for list_ in ("train", "val", "query", "gallery")}

    def add(list_: str, identity: int, number: int, camera: int) -> None:
        path = f"{identity:04}/{identity:04}_{number:03}_{camera:02}_0303morning_0015_{number}.jpg"
        write_image(folder / (train if list_ in ("train", "val") else test) / path, identity)
        lists[list_].append(f"{path} {identity}\n")

    for identity in TRAIN:
        for number, list_ in enumerate(("train", "train", "val")):
            add(list_, identity, number, camera=number + 1)
    for identity in TEST:
        for number, list_ in enumerate(("query", "gallery", "gallery")):
            add(list_, identity, number, camera=15 - number)
    for list_, lines in lists.items():
        (folder / f"list_{list_}.txt").write_text("".join(lines))


def write_miniature(root, write_image) -> None:
    write_version(root, write_image, "MSMT17_V1", "train", "test")


def test_validation_list_is_optional(make, sizes):
    miniature = make("msmt17")
    default, validation = miniature.open(), miniature.open(validation=True)
    assert sizes(default) == {"train": Split(8, 4, 2), "query": Split(3, 3, 1), "gallery": Split(6, 3, 2)}
    assert sizes(validation)["train"] == Split(12, 4, 3)
    assert (default.non_default_options(), validation.non_default_options()) == ({}, {"validation": True})
    assert (default.expected_sizes()["train"].images, validation.expected_sizes()["train"].images) == (None, 32_621)


def test_test_identities_are_offset(make):
    dataset = make("msmt17").open()
    assert {sample.identity for sample in dataset.train} == set(TRAIN)
    assert {sample.identity for sample in dataset.gallery} == {10_000 + identity for identity in TEST}
    assert {sample.camera for sample in dataset.query} == {15}


def test_version_2_is_a_non_default_option(make, write_image, tmp_path):
    write_version(tmp_path, write_image, "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    only = MSMT17(tmp_path)
    assert len(only.train) == 8
    assert "mask_train_v2" in str(only.train[0].path)
    assert only.non_default_options() == {"version": "v2"}


@pytest.mark.parametrize(("requested", "folder"), [("auto", "train"), ("v1", "train"), ("v2", "mask_train_v2")])
def test_version_if_both_are_on_disk(make, write_image, requested, folder):
    miniature = make("msmt17")
    write_version(miniature.root, write_image, "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    dataset = miniature.open(version=requested)
    assert dataset.train[0].path.parts[-3] == folder
    assert dataset.non_default_options() == ({"version": "v2"} if requested == "v2" else {})


def test_missing_version(make):
    with pytest.raises(UserError, match="mask_train_v2"):
        _ = make("msmt17").open(version="v2").train


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0000/0000_000_01_0303morning_0015_0.jpg 1", "is not an image of identity 1"),
        ("0000/0000.jpg 0", "is not an image of identity 0"),
        ("0000/0000_000_01_0303morning_0099_0.jpg 0", "is listed but missing"),
        ("0000/0000_000_01_0303morning_0015_0.jpg", "expected 2 fields"),
    ],
)
def test_defects_of_a_row(make, row, message):
    miniature = make("msmt17")
    file = miniature.open().folder / "list_query.txt"
    file.write_text(f"{file.read_text()}{row}\n")
    assert any(message in defect for defect in check(miniature.open()).defects)


@given(st.integers(0, 9999), st.integers(0, 999), st.integers(1, 15), st.sampled_from(["0303morning", "0114noon"]))
def test_official_paths_match(identity, number, camera, time):
    path = f"{identity:04}/{identity:04}_{number:03}_{camera:02}_{time}_0015_0.jpg"
    match = FILE_NAME.fullmatch(path)
    assert (int(match["identity"]), int(match["camera"])) == (identity, camera)


def test_versions_have_different_run_folders(make, write_image, tmp_path):
    first = make("msmt17").root
    write_version(tmp_path / "second", write_image, "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    recipe = compose("kd", "msmt17")
    runs = [
        Experiment(recipe, work_dir=tmp_path, data_root=root, device=torch.device("cpu"))
        for root in (first, tmp_path / "second")
    ]
    assert [run.recipe.dataset.arguments["version"] for run in runs] == ["v1", "v2"]
    assert runs[0].folder != runs[1].folder
    assert runs[0].teacher_folder != runs[1].teacher_folder


@pytest.mark.parametrize("validation", [False, True])
def test_total_includes_the_validation_list(make, validation):
    miniature = make("msmt17")
    dataset = miniature.open(validation=validation)
    assert sizes_on_disk(dataset)["all"] == Split(21, 7, 6)
    assert dataset.expected_sizes()["all"] == Split(126_441, 4_101, 15)
    file = dataset.folder / "list_train.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:5]))
    assert sizes_on_disk(miniature.open(validation=validation))["all"].images == 18


def test_unused_validation_images_are_counted(make):
    miniature = make("msmt17")
    assert miniature.open().listings["train"].skipped == {"image of a list that is not used": 4}
    assert miniature.open(validation=True).listings["train"].skipped == {}
