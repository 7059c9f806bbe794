"""Emoji: symbols, vendors and splits."""

import pytest

from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.datasets.emoji import FOLDERS, Emoji
from benchmark.errors import UserError

TRAIN = ("1f601", "1f606", "1f609", "1f44b", "1f44b-1f3fb", "1f44b-1f3ff")
TEST = ("1f602", "1f604", "1f44d", "1f44d-1f3fb", "1f44d-1f3ff")


def write_miniature(root, write_image) -> None:
    for height, (vendor, folder) in enumerate(FOLDERS.items(), 40):
        for identity, symbol in enumerate((*TRAIN, *TEST)):
            name = symbol.replace("1f604", "1f604-fe0f") if vendor == "noto" else symbol
            ending = "webp" if vendor == "fluent" else "png"
            write_image(root / "emoji" / folder / f"{name}.{ending}", identity, size=(height, 40))
        (root / "emoji" / folder / "LICENSE").write_text("free")
    write_image(root / "emoji" / FOLDERS["noto"] / "1f605.png", 20)  # not by all vendors
    write_image(root / "emoji" / FOLDERS["fluent"] / "1f602-fe0f.webp", 21)  # the second picture of a symbol
    for folder in FOLDERS.values():
        write_image(root / "emoji" / folder / "1f63a.png", 22)  # like another symbol


def names(dataset, samples):
    return {dataset.identity_name(sample.identity) for sample in samples}


def test_queries_are_of_one_vendor_and_without_skin_tones(make, sizes):
    dataset = make("emoji").open()
    assert names(dataset, dataset.train) == set(TRAIN)
    assert names(dataset, dataset.gallery) == set(TEST)
    assert names(dataset, dataset.query) == {"1f602", "1f604", "1f44d"}
    assert {dataset.camera_name(sample.camera) for sample in dataset.query} == {"twemoji"}
    assert {dataset.camera_name(sample.camera) for sample in dataset.gallery} == {"noto", "fluent"}
    assert sizes(dataset) == {"train": Split(18, 6, 3), "query": Split(3, 3, 1), "gallery": Split(10, 5, 2)}


def test_symbols_that_are_left_out_are_counted(make):
    text = str(check(make("emoji").open()))
    assert "1 file: another picture of the symbol" in text
    assert "4 files: symbol that not all vendors draw, or alike" in text


def test_unknown_file_names_are_defects(make, write_image):
    miniature = make("emoji")
    write_image(miniature.root / "emoji" / FOLDERS["noto"] / "smile.png", 1)
    with pytest.raises(UserError, match=r"smile\.png is not named like 1f600\.png"):
        _ = miniature.open().train


def test_packages_are_told_apart_by_their_content(tmp_path, command_line):
    other = tmp_path / "emoji-datasource-google-16.0.0.tgz"
    other.write_bytes(b"another version")
    code, _, err = command_line("data", "prepare", "emoji", other, "--data-root", tmp_path / "data")
    assert code == 2
    assert f"{other} is none of emoji-datasource-google-16.0.0.tgz, " in err and "npm pack" in err
    assert not (tmp_path / "data").exists()
    code, _, err = command_line("data", "prepare", "emoji", tmp_path / "absent.tgz", "--data-root", tmp_path / "data")
    assert code == 2 and "absent.tgz does not exist" in err


def test_only_datasets_of_packages_take_several_archives(tmp_path, command_line):
    code, _, err = command_line("data", "prepare", "market1501", tmp_path / "a.zip", tmp_path / "b.zip")
    assert code == 2 and f"{tmp_path / 'b.zip'}: market1501 has a single archive" in err


def test_each_package_has_another_folder():
    assert [package.folder for package in Emoji.card.packages] == [folder.split("/")[0] for folder in FOLDERS.values()]
