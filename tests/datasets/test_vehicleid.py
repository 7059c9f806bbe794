"""VehicleID: three test lists and the random gallery."""

import pytest

from benchmark.data.card import Split
from benchmark.data.check import check

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
