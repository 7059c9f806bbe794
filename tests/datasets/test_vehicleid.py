"""VehicleID: the three test lists and the random gallery."""

import pytest
import torch

from benchmark.data import check as checks
from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.experiment.experiment import Experiment
from benchmark.recipe import compose

TRAIN, EACH = (1, 2, 3, 26000), 4


def write_miniature(root, write_image) -> None:
    folder, number = root / "vehicleid" / "VehicleID_V1.0", 0

    def rows(vehicles) -> str:
        nonlocal number
        text = ""
        for vehicle in vehicles:
            for _ in range(EACH):
                number += 1
                write_image(folder / "image" / f"{number:07}.jpg", vehicle)
                text += f"{number:07} {vehicle}\r\n"
        return text

    lists = folder / "train_test_split"
    lists.mkdir(parents=True)
    (lists / "train_list.txt").write_text(rows(TRAIN), newline="")
    small = rows((10, 11, 12))
    (lists / "test_list_800.txt").write_text(small, newline="")
    (lists / "test_list_1600.txt").write_text(medium := small + rows((13, 14)), newline="")
    (lists / "test_list_2400.txt").write_text(medium + rows((15,)), newline="")
    (folder / "attribute").mkdir()


@pytest.mark.parametrize(("size", "vehicles"), [(800, 3), (1600, 5), (2400, 6)])
def test_gallery_has_one_image_of_every_vehicle(make, sizes, size, vehicles):
    dataset = make("vehicleid").open(test_size=size)
    assert sizes(dataset) == {
        "train": Split(16, 4, 1),
        "query": Split(3 * vehicles, vehicles, 1),
        "gallery": Split(vehicles, vehicles, 1),
    }
    assert dataset.non_default_options() == ({} if size == 800 else {"test_size": size})
    images = {800: 6_493, 1600: 13_377, 2400: 19_777}[size]
    assert dataset.expected_sizes()["query"].images == images - size
    assert dataset.expected_sizes()["gallery"] == Split(size, size, 1)


def test_seed_determines_the_gallery(make):
    miniature = make("vehicleid")
    galleries = [miniature.open(seed=seed) for seed in range(8)]
    assert galleries[0].gallery == miniature.open().gallery
    assert len({dataset.gallery for dataset in galleries}) > 3
    assert len({frozenset((*dataset.query, *dataset.gallery)) for dataset in galleries}) == 1
    assert all(dataset.non_default_options() == {} for dataset in galleries)


def test_gallery_is_independent_of_the_order_of_the_list(make):
    miniature = make("vehicleid")
    before = miniature.open().gallery
    file = miniature.open().folder / "train_test_split" / "test_list_800.txt"
    file.write_text("\n".join(reversed(file.read_text().splitlines())))
    assert miniature.open().gallery == before


@pytest.mark.parametrize("row", ["0000001", "0000001 a", "9999999 10"])
def test_defects_of_a_row(make, row):
    miniature = make("vehicleid")
    file = miniature.open().folder / "train_test_split" / "test_list_800.txt"
    file.write_text(f"{file.read_text()}{row}\n")
    first = check(miniature.open()).defects[0]
    assert "test_list_800.txt, line 13" in first or "9999999.jpg is listed but missing" in first


def experiment(miniature, *settings, seed=0) -> Experiment:
    recipe = compose("none", "vehicleid", settings=settings, seed=seed)
    return Experiment(recipe, work_dir=miniature.root / "runs", data_root=miniature.root, device=torch.device("cpu"))


def test_default_seed_is_that_of_the_run(make):
    miniature = make("vehicleid")
    assert experiment(miniature, seed=3).dataset.gallery == miniature.open(seed=3).gallery
    assert experiment(miniature, "dataset.seed=5", seed=3).dataset.gallery == miniature.open(seed=5).gallery
    assert experiment(miniature, seed=3).recipe.dataset.arguments["seed"] == 3


def test_evaluation_options_share_a_training(make):
    miniature = make("vehicleid")
    default = experiment(miniature)
    others = [experiment(miniature, f"dataset.{option}") for option in ("seed=5", "test_size=1600")]
    assert all(other.folder.path == default.folder.path for other in others)
    assert len({other.recipe.hash for other in (default, *others)}) == 3
    reseeded = experiment(miniature, seed=3)
    assert reseeded.folder.path != default.folder.path
    records = [run.teacher_folder.record for run in (default, *others, reseeded)]
    assert len({record.parent for record in records}) == 1  # the teacher is trained once
    assert len(set(records)) == 4  # and evaluated for each gallery and list
    assert default.teacher_folder.record.name == "record.json"


def test_truncated_list_is_a_defect(make, monkeypatch):
    dataset = make("vehicleid").open()
    monkeypatch.setattr(
        checks, "sizes", lambda _: dict(dataset.expected_sizes()) | {"train": Split(113_345, 13_164, 1)}
    )
    assert check(dataset).defects == ("train: expected 113,346 images, found 113,345",)


def test_skipped_images_of_unused_lists_and_of_no_list(make, write_image):
    miniature = make("vehicleid")
    write_image(miniature.open().folder / "image" / "9999999.jpg")
    skipped = miniature.open().listings["train"].skipped
    assert skipped == {"image of a list that is not used": 12, "image that is in no list": 1}


def test_the_seed_of_the_gallery_does_not_change_the_identity(originals):
    first, second = (originals("vehicleid").open(seed=seed) for seed in (0, 1))
    assert first.query != second.query
    assert first.fingerprint() == second.fingerprint()
