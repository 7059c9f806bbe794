"""`benchmark inspect`."""

import re

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def inspect(command_line, data_root):
    """`inspect(folder)` runs `benchmark inspect` in this process; returns exit code, stdout and stderr."""

    def run(*arguments: object, root=data_root) -> tuple[int, str, str]:
        return command_line("inspect", *arguments, "--device", "cpu", "--data-root", root)

    return run


def test_page_and_image(inspect, student, teacher, tmp_path):
    page, image = tmp_path / "new" / "page.html", tmp_path / "new" / "page.png"
    code, out, err = inspect(student, "--worst", 3, "--output", page)
    assert code == 0, err
    assert out.split() == [str(page), str(image)]
    assert "cdd on glyphs" in page.read_text() and "teacher" in page.read_text()
    with Image.open(image) as sheet:
        assert sheet.width > 400
    assert inspect(teacher, "--worst", 3, "--output", tmp_path / "teacher.html")[0] == 0
    assert "teacher on glyphs" in (tmp_path / "teacher.html").read_text()


def test_map_and_saliency(inspect, student, tmp_path):
    page = tmp_path / "page.html"
    code, _, err = inspect(student, "--worst", 2, "--saliency", 1, "--map", "tsne", "--output", page)
    assert code == 0, err
    text = page.read_text()
    assert "t-SNE of the student" in text and "<circle" in text
    assert 1 <= text.count("<details>") <= 4
    assert inspect(student, "--worst", 2, "--saliency", 0, "--map", "none", "--output", page)[0] == 0
    text = page.read_text()
    assert "<details>" not in text and 'id="map"' not in text


def test_unknown_map(inspect, student):
    code, _, err = inspect(student, "--map", "tsn")
    assert code == 2 and "--map tsn: choose pca, tsne or none; did you mean 'tsne'?" in err


def test_ranked_tracks_are_shown_by_one_image_each(inspect, student, tmp_path):
    folder = tmp_path / "data" / "veri776" / "VeRi"
    names = {"train": ["0001_c001_00000000_0.jpg"], "query": [], "test": []}
    tracks = []
    for vehicle in (2, 5):
        names["query"].append(f"{vehicle:04}_c001_00000000_0.jpg")
        for camera in (3, 4):
            track = [f"{vehicle:04}_c{camera:03}_0000000{frame}_0.jpg" for frame in range(3)]
            names["test"] += track
            tracks.append(f"{vehicle:04}{camera:03} {' '.join(track)}\n")
    for split, files in names.items():
        (folder / f"image_{split}").mkdir(parents=True)
        (folder / f"name_{split}.txt").write_text("\n".join(files))
        for index, name in enumerate(files):
            pixels = np.random.default_rng(index).integers(256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"image_{split}" / name)
    (folder / "test_track.txt").write_text("".join(tracks))

    page = tmp_path / "page.html"
    options = ("--dataset", "veri776", "--set", "dataset.ranked=tracks", "--output", page)
    code, _, err = inspect(student, *options, root=tmp_path / "data")
    assert code == 0, err
    lists = re.findall(r"<ol>(.*?)</ol>", page.read_text(), flags=re.DOTALL)
    assert lists
    for entries in lists:
        shown = re.findall(r'title="[^"]*, (\d+_c\d+)_\d+_0.jpg"', entries)
        assert sorted(shown) == ["0002_c003", "0002_c004", "0005_c003", "0005_c004"]


def test_unfinished_run(inspect, student, tmp_path):
    (tmp_path / "recipe.yaml").write_text((student / "recipe.yaml").read_text())
    code, _, err = inspect(tmp_path)
    assert code == 2 and "has an unfinished run: it has no student.pt" in err


def test_missing_teacher(inspect, student, tmp_path):
    alone = tmp_path / "runs" / "glyphs" / "cdd" / student.name
    alone.mkdir(parents=True)
    for name in ("recipe.yaml", "student.pt"):
        (alone / name).write_bytes((student / name).read_bytes())
    code, _, err = inspect(alone)
    assert code == 2 and re.search(r"the teacher of .* is missing: there is no .*teacher/seed0", err)


def test_page_of_another_type(inspect, student):
    code, _, err = inspect(student, "--output", "page.txt")
    assert code == 2 and "page.txt" in err and ".html" in err
