"""VeRi-776: file names, lists and tracks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.data import check as checks
from benchmark.data.card import Split
from benchmark.data.check import check
from benchmark.datasets.veri776 import FILE_NAME
from benchmark.errors import UserError

TRAIN, TEST = (1, 3, 4, 776), (2, 5, 6)


def write_miniature(root, write_image) -> None:
    folder = root / "veri776" / "VeRi"
    for vehicle in TRAIN:
        for camera in (1, 9, 20):
            write_image(folder / "image_train" / f"{vehicle:04}_c{camera:03}_00016450_0.jpg", vehicle)
    tracks = []
    for vehicle in TEST:
        write_image(folder / "image_query" / f"{vehicle:04}_c002_00030600_0.jpg", vehicle)
        for camera in (2, 4):
            names = [f"{vehicle:04}_c{camera:03}_000306{frame:02}_0.jpg" for frame in range(3)]
            tracks.append(" ".join([f"{vehicle:04}{camera:03}", *names]))
            for name in names:
                write_image(folder / "image_test" / name, vehicle)
    for split in ("train", "query", "test"):
        names = sorted(path.name for path in (folder / f"image_{split}").iterdir())
        (folder / f"name_{split}.txt").write_text("".join(f"{name}\r\n" for name in names))
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


def test_ranked_images_or_tracks(make):
    miniature = make("veri776")
    images, tracks = miniature.open(), miniature.open(ranked="tracks")
    assert (images.protocol.tracks, tracks.protocol.tracks) == (False, True)
    assert {sample.track for sample in images.gallery} == {0}
    assert sorted({(s.track, s.identity, s.camera) for s in tracks.gallery}) == [
        (1, 2, 2), (2, 2, 4), (3, 5, 2), (4, 5, 4), (5, 6, 2), (6, 6, 4),
    ]  # fmt: skip
    assert (images.non_default_options(), tracks.non_default_options()) == ({}, {"ranked": "tracks"})


def test_track_names_are_optional(make):
    miniature = make("veri776")
    before = miniature.open(ranked="tracks").gallery
    file = miniature.open().folder / "test_track.txt"
    file.write_text("\n".join(line.partition(" ")[2] for line in file.read_text().splitlines()))
    assert miniature.open(ranked="tracks").gallery == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "is in no track"),
        (lambda lines: [*lines, "0009009 nothing.jpg"], "line 7: expected the image names of a track"),
        (lambda lines: [*lines, lines[0]], "line 7: 0002_c002_00030600_0.jpg is also in the track of line 1"),
        (lambda lines: [f"{lines[0]} {lines[1]}", *lines[2:]], "line 1: expected the image names"),
        (
            lambda lines: [f"{lines[0]} {lines[1].partition(' ')[2]}", *lines[2:]],
            "has images of several vehicles or cameras",
        ),
    ],
)
def test_defects_of_the_track_list(make, change, message):
    miniature = make("veri776")
    file = miniature.open().folder / "test_track.txt"
    file.write_text("\n".join(change(file.read_text().splitlines())))
    with pytest.raises(UserError, match=message):
        _ = miniature.open(ranked="tracks").gallery
    assert miniature.open().gallery  # images do not need the tracks


def test_listed_image_is_missing(make):
    miniature = make("veri776")
    path = miniature.open().train[0].path
    path.unlink()
    assert f"{path} is missing, but listed in name_train.txt" in check(miniature.open()).defects


@pytest.mark.parametrize(
    ("images", "identities", "ok"), [(37_778, 576, True), (37_500, 574, True), (37_000, 576, False)]
)
def test_small_difference_of_a_disputed_count_is_a_warning(make, monkeypatch, images, identities, ok):
    dataset = make("veri776").open()
    found = dict(dataset.card.splits) | {"train": Split(images, identities, 20)}
    monkeypatch.setattr(checks, "sizes", lambda _: found)
    report = check(dataset)
    assert report.ok == ok
    differences = [warning for warning in report.warnings if warning.startswith("train: expected")]
    assert len(differences) == (images, identities).count(37_500) + (images, identities).count(574)
    assert any("not the published images" in warning for warning in report.warnings) != ok
    assert str(report).endswith("all as expected" if images == 37_778 else "no defects" if ok else "found 37,000")


@given(st.integers(1, 9999), st.integers(1, 20), st.integers(0, 99_999_999), st.integers(0, 9))
def test_official_file_names_match(vehicle, camera, frame, number):
    match = FILE_NAME.fullmatch(f"{vehicle:04}_c{camera:03}_{frame:08}_{number}.jpg")
    assert (int(match["identity"]), int(match["camera"])) == (vehicle, camera)


@given(st.integers(21, 999) | st.just(0))
def test_there_are_twenty_cameras(camera):
    assert FILE_NAME.fullmatch(f"0001_c{camera:03}_00016450_0.jpg") is None
