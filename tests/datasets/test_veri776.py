"""VeRi-776: names, lists and tracks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.datasets.veri776 import NAME
from benchmark.errors import UserError

TRAIN, TEST = (1, 3, 4, 776), (2, 5, 6)


def miniature(root, picture) -> None:
    folder = root / "veri776" / "VeRi"
    for vehicle in TRAIN:
        for camera in (1, 9, 20):
            picture(folder / "image_train" / f"{vehicle:04}_c{camera:03}_00016450_0.jpg", vehicle)
    tracks = []
    for vehicle in TEST:
        picture(folder / "image_query" / f"{vehicle:04}_c002_00030600_0.jpg", vehicle)
        for camera in (2, 4):
            names = [f"{vehicle:04}_c{camera:03}_000306{frame:02}_0.jpg" for frame in range(3)]
            tracks.append(" ".join([f"{vehicle:04}{camera:03}", *names]))
            for name in names:
                picture(folder / "image_test" / name, vehicle)
    for split, listing in (("train", "train"), ("query", "query"), ("test", "test")):
        names = sorted(path.name for path in (folder / f"image_{split}").iterdir())
        (folder / f"name_{listing}.txt").write_text("".join(f"{name}\r\n" for name in names))
    (folder / "test_track.txt").write_text("\n".join(tracks) + "\n")
    for junk in ("train_label.xml", "test_label.xml", "gt_index.txt", "jk_index.txt"):
        (folder / junk).write_text("")
    (folder / "image_test" / "._0002_c002_00030600_0.jpg").write_bytes(b"\0")


def test_sizes(make, sizes):
    assert sizes(make("veri776").open()) == {
        "train": Split(12, 4, 3),
        "query": Split(3, 3, 1),
        "gallery": Split(18, 3, 2),
    }


def test_images_are_ranked_by_default_and_tracks_on_demand(make):
    made = make("veri776")
    images, tracks = made.open(), made.open(ranked="tracks")
    assert (images.protocol.tracks, tracks.protocol.tracks) == (False, True)
    assert {sample.track for sample in images.gallery} == {0}
    assert sorted({(s.track, s.identity, s.camera) for s in tracks.gallery}) == [
        (1, 2, 2), (2, 2, 4), (3, 5, 2), (4, 5, 4), (5, 6, 2), (6, 6, 4),
    ]  # fmt: skip
    assert (images.variant(), tracks.variant()) == ({}, {"ranked": "tracks"})


def test_tracks_need_no_names_of_their_own(make):
    made = make("veri776")
    before = made.open(ranked="tracks").gallery
    file = made.open().folder / "test_track.txt"
    file.write_text("\n".join(line.partition(" ")[2] for line in file.read_text().splitlines()))
    assert made.open(ranked="tracks").gallery == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[1:], "is in no track"),
        (lambda lines: [*lines, "0009009 nothing.jpg"], "line 7: expected the names of a track's images"),
        (lambda lines: [*lines, lines[0]], "line 7: 0002_c002_00030600_0.jpg is also in the track of line 1"),
        (lambda lines: [f"{lines[0]} {lines[1]}", *lines[2:]], "line 1: expected the names"),
        (lambda lines: [f"{lines[0]} {lines[1].partition(' ')[2]}", *lines[2:]], "shows several vehicles or cameras"),
    ],
)
def test_tracks_that_are_not_as_published(make, change, said):
    made = make("veri776")
    file = made.open().folder / "test_track.txt"
    file.write_text("\n".join(change(file.read_text().splitlines())))
    with pytest.raises(UserError, match=said):
        _ = made.open(ranked="tracks").gallery
    assert made.open().gallery, "images do not need them"


def test_an_image_that_is_listed_must_be_there(make):
    made = make("veri776")
    lost = made.open().train[0].path
    lost.unlink()
    differences = check(made.open()).differences
    assert f"{lost} is missing; name_train.txt lists it" in differences


@pytest.mark.parametrize(
    ("images", "identities", "ok"), [(37_778, 576, True), (37_500, 574, True), (37_000, 576, False)]
)
def test_a_small_difference_in_disputed_counts_is_a_warning(make, monkeypatch, images, identities, ok):
    dataset = make("veri776").open()
    found = dict(dataset.card.splits) | {"train": Split(images, identities, 20)}
    monkeypatch.setattr(dataset, "counts", lambda: found)
    report = check(dataset)
    assert report.ok == ok
    assert len(report.warnings) == (images, identities).count(37_500) + (images, identities).count(574)
    assert str(report).endswith("all as expected" if images == 37_778 else "no defects" if ok else "found 37,000")


@given(st.integers(1, 9999), st.integers(1, 20), st.integers(0, 99_999_999), st.integers(0, 9))
def test_every_official_name_is_read(vehicle, camera, frame, number):
    match = NAME.fullmatch(f"{vehicle:04}_c{camera:03}_{frame:08}_{number}.jpg")
    assert (int(match["identity"]), int(match["camera"])) == (vehicle, camera)


@given(st.integers(21, 999) | st.just(0))
def test_there_are_twenty_cameras(camera):
    assert NAME.fullmatch(f"0001_c{camera:03}_00016450_0.jpg") is None
