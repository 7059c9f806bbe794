"""VehicleID: three test lists and the random gallery."""

import pytest
import torch

from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.experiment.experiment import Experiment
from benchmark.recipe import compose

TRAIN, EACH = (1, 2, 3, 26000), 4


def miniature(root, picture) -> None:
    folder, number = root / "vehicleid" / "VehicleID_V1.0", 0

    def rows(vehicles) -> str:
        nonlocal number
        text = ""
        for vehicle in vehicles:
            for _ in range(EACH):
                number += 1
                picture(folder / "image" / f"{number:07}.jpg", vehicle)
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
def test_the_gallery_has_one_image_of_every_vehicle(make, sizes, size, vehicles):
    dataset = make("vehicleid").open(test_size=size)
    assert sizes(dataset) == {
        "train": Split(16, 4, 1),
        "query": Split(3 * vehicles, vehicles, 1),
        "gallery": Split(vehicles, vehicles, 1),
    }
    assert dataset.variant() == ({} if size == 800 else {"test_size": size})
    images = {800: 6_493, 1600: 13_377, 2400: 19_777}[size]
    assert dataset.expected()["query"].images == images - size
    assert dataset.expected()["gallery"] == Split(size, size, 1)


def test_the_seed_draws_the_gallery(make):
    made = make("vehicleid")
    draws = [made.open(seed=seed) for seed in range(8)]
    assert draws[0].gallery == made.open().gallery
    assert len({draw.gallery for draw in draws}) > 3
    assert all({*draw.query, *draw.gallery} == {*draws[0].query, *draws[0].gallery} for draw in draws)
    assert all(draw.variant() == {} for draw in draws), "a draw is no other benchmark"


def test_the_draw_does_not_depend_on_the_order_of_the_list(make):
    made = make("vehicleid")
    before = made.open().gallery
    file = made.open().folder / "train_test_split" / "test_list_800.txt"
    file.write_text("\n".join(reversed(file.read_text().splitlines())))
    assert made.open().gallery == before


@pytest.mark.parametrize("row", ["0000001", "0000001 a", "9999999 10"])
def test_a_row_that_is_not_as_published(make, row):
    made = make("vehicleid")
    file = made.open().folder / "train_test_split" / "test_list_800.txt"
    file.write_text(f"{file.read_text()}{row}\n")
    first = check(made.open()).differences[0]
    assert "test_list_800.txt, line 13" in first or "9999999.jpg is listed but missing" in first


def experiment(made, *settings, seed=0) -> Experiment:
    recipe = compose("none", "vehicleid", settings=settings, seed=seed)
    return Experiment(recipe, made.root / "runs", made.root, torch.device("cpu"), resume=False)


def test_the_run_s_seed_draws_unless_another_is_given(make):
    made = make("vehicleid")
    assert experiment(made, seed=3).dataset.gallery == made.open(seed=3).gallery
    assert experiment(made, "dataset.seed=5", seed=3).dataset.gallery == made.open(seed=5).gallery
    assert experiment(made, seed=3).recipe.dataset.arguments["seed"] == 3


def test_draws_and_test_lists_share_what_is_trained(make):
    made = make("vehicleid")
    usual = experiment(made)
    others = [experiment(made, f"dataset.{option}") for option in ("seed=5", "test_size=1600")]
    assert all(other.folder == usual.folder for other in others)
    assert len({other.recipe.hash for other in (usual, *others)}) == 3
    another = experiment(made, seed=3)
    assert another.folder != usual.folder
    records = [run.teacher_record for run in (usual, *others, another)]
    assert len({record.parent for record in records}) == 1, "one teacher is trained"
    assert len(set(records)) == 4, "and is judged by every draw and list"
    assert usual.teacher_record.name == "record.json"


def test_a_list_that_is_cut_short_is_a_defect(make, monkeypatch):
    dataset = make("vehicleid").open()
    monkeypatch.setattr(dataset, "counts", lambda: dict(dataset.expected()) | {"train": Split(113_345, 13_164, 1)})
    assert check(dataset).differences == ("train: expected 113,346 images, found 113,345",)


def test_images_of_the_other_test_lists_are_told_from_those_in_none(make, picture):
    made = make("vehicleid")
    picture(made.open().folder / "image" / "9999999.jpg")
    skipped = made.open().listings["train"].skipped
    assert skipped == {"image of a list that is not used": 12, "image that is in no list": 1}
