"""The picture of `benchmark compare`."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from benchmark.comparison import QueryGains, draw, open_runs
from benchmark.comparison.plot import _panels

TRACE = [{"epoch": 0, "macs": 60e6}, {"epoch": 1, "macs": 30e6, "loss": 9.0, "mAP": 0.25}, {"epoch": 2, "loss": 1.0}]


@pytest.fixture
def opened(run):
    """Two runs, of which one says how it is compressed and scored, and what the other gains over it."""
    runs = open_runs([run("cdd", [0.5, 0.5, 0.5], metrics=TRACE), run("kd", [0.75, 0.5, 0.25])])
    return runs, {"kd": QueryGains.of(runs["kd"], runs["cdd"])}


def test_what_is_drawn(opened):
    loss, score, macs, queries = (panel.lines for panel in _panels(*opened))
    assert {name: points.tolist() for name, points in loss.items()} == {
        "cdd": [[1, 9], [2, 1]],
        "kd": [[1, 8], [2, 4]],
    }
    assert {name: points.tolist() for name, points in score.items()} == {"cdd": [[1, 25]]}
    assert {name: points.tolist() for name, points in macs.items()} == {"cdd": [[0, 100], [1, 50]]}
    assert queries["cdd"].tolist() == [[0, 0], [100, 0]]
    assert queries["kd"] == pytest.approx(np.array([(100 / 6, -25), (50, 0), (500 / 6, 25)]))


def test_a_teacher_has_no_share_of_a_teacher(run):
    runs = open_runs([run("none", role="teacher", metrics=TRACE), run("kd")])
    assert [set(panel.lines) for panel in _panels(runs, {})] == [{"teacher", "kd"}, {"teacher"}, set(), set()]


def test_there_is_a_panel_for_what_is_known(opened, run, tmp_path):
    titles = ["Loss: ", "mAP after", "MACs after", "Average precision of each query against cdd"]
    draw(*opened, tmp_path / "all.svg")
    text = (tmp_path / "all.svg").read_text()
    assert all(title in text for title in titles)
    draw(open_runs([run("none"), run("rkd")]), {}, tmp_path / "loss.svg")
    text = (tmp_path / "loss.svg").read_text()
    assert [title in text for title in titles] == [True, False, False, False]


def test_it_is_stable_and_transparent(opened, tmp_path):
    for name in ("one.svg", "other.svg", "one.PNG"):
        draw(*opened, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    background = ElementTree.parse(tmp_path / "one.svg").find(".//*[@id='patch_1']/*")
    assert background is not None and "fill: none" in background.get("style", "")
    with Image.open(tmp_path / "one.PNG") as image:
        assert image.format == "PNG"
        assert image.getpixel((0, 0))[3] == 0
    assert sorted(path.name for path in Path(tmp_path).glob("*.*")) == ["one.PNG", "one.svg", "other.svg"]


def test_runs_of_one_colour_have_other_dashes(run, tmp_path):
    draw(open_runs([run("kd", seed=seed) for seed in range(8)]), {}, tmp_path / "eight.svg")
    assert "stroke-dasharray: 7" not in (tmp_path / "eight.svg").read_text()
    draw(open_runs([run("kd", seed=seed) for seed in range(9)]), {}, tmp_path / "nine.svg")
    assert "stroke-dasharray: 7" in (tmp_path / "nine.svg").read_text()
