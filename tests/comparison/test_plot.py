"""The plot of `benchmark compare`."""

from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from benchmark.comparison import QueryGains, open_runs, plot_comparison
from benchmark.comparison.plot import _panels

METRICS = [{"epoch": 0, "macs": 60e6}, {"epoch": 1, "macs": 30e6, "loss": 9.0, "mAP": 0.25}, {"epoch": 2, "loss": 1.0}]


@pytest.fixture
def runs_and_gains(run):
    """A run with MACs and mAP per epoch, one without, and the gains of the second over the first."""
    runs = open_runs([run("cdd", [0.5, 0.5, 0.5], metrics=METRICS), run("kd", [0.75, 0.5, 0.25])])
    return runs, {"kd": QueryGains.between(runs["kd"], runs["cdd"])}


def test_lines(runs_and_gains):
    loss, score, macs, gains = (panel.lines for panel in _panels(*runs_and_gains))
    assert {name: points.tolist() for name, points in loss.items()} == {
        "cdd": [[1, 9], [2, 1]],
        "kd": [[1, 8], [2, 4]],
    }
    assert {name: points.tolist() for name, points in score.items()} == {"cdd": [[1, 25]]}
    assert {name: points.tolist() for name, points in macs.items()} == {"cdd": [[0, 100], [1, 50]]}
    assert gains["cdd"].tolist() == [[0, 0], [100, 0]]
    assert gains["kd"] == pytest.approx(np.array([(100 / 6, -25), (50, 0), (500 / 6, 25)]))


def test_teacher_has_no_line_relative_to_a_teacher(run):
    runs = open_runs([run("none", role="teacher", metrics=METRICS), run("kd")])
    assert [set(panel.lines) for panel in _panels(runs, {})] == [{"teacher", "kd"}, {"teacher"}, set(), set()]


def test_draws_only_panels_with_data(runs_and_gains, run, tmp_path):
    titles = ["Training loss", "mAP after", "MACs after", "AP gain of each query over cdd"]
    plot_comparison(*runs_and_gains, tmp_path / "all.svg")
    text = (tmp_path / "all.svg").read_text()
    assert all(title in text for title in titles)
    plot_comparison(open_runs([run("none"), run("rkd")]), {}, tmp_path / "loss.svg")
    text = (tmp_path / "loss.svg").read_text()
    assert [title in text for title in titles] == [True, False, False, False]


def test_is_reproducible_and_transparent(runs_and_gains, tmp_path):
    for name in ("one.svg", "other.svg", "one.PNG"):
        plot_comparison(*runs_and_gains, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    background = ElementTree.parse(tmp_path / "one.svg").find(".//*[@id='patch_1']/*")
    assert background is not None and "fill: none" in background.get("style", "")
    with Image.open(tmp_path / "one.PNG") as image:
        assert image.format == "PNG"
        assert image.getpixel((0, 0))[3] == 0
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["one.PNG", "one.svg", "other.svg"]


def test_runs_of_equal_color_have_different_dashes(run, tmp_path):
    runs = open_runs([run("kd", seed=seed) for seed in range(9)])
    plot_comparison(dict(list(runs.items())[:8]), {}, tmp_path / "eight.svg")
    assert "stroke-dasharray: 7" not in (tmp_path / "eight.svg").read_text()
    plot_comparison(runs, {}, tmp_path / "nine.svg")
    assert "stroke-dasharray: 7" in (tmp_path / "nine.svg").read_text()
