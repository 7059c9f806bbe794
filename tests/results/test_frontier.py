import re
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from benchmark.results.frontier import COSTS, frontier_svgs, pareto_frontier
from benchmark.results.rows import Statistic, group_records

COST = {"macs": 30_000_000, "flops": 60_000_000, "parameters": 2_000_000, "latency_ms": {"1": 2.5}}


def frontier_svg(rows):
    return frontier_svgs({"glyphs": rows})["glyphs"]


def test_many_plots_are_the_same_in_other_processes(record, monkeypatch):
    monkeypatch.setattr("benchmark.results.frontier._PER_PROCESS", 1)
    monkeypatch.setattr("benchmark.results.frontier.cores", lambda: 2)
    boards = {name: group_records([record(name, dataset=name)]) for name in ("a", "b", "c")}
    expected = {name: frontier_svgs({name: rows})[name] for name, rows in boards.items()}
    assert frontier_svgs(boards) == expected
    monkeypatch.setattr(sys, "executable", "/bin/false")  # processes that fail
    assert frontier_svgs(boards) == expected


def test_many_rows_have_one_plot_with_labels_for_some(record):
    rows = group_records(record(f"method{number}", mAP=number / 300, macs=1e6 * (number + 1)) for number in range(200))
    svg = frontier_svg(rows)
    assert svg.count('<g id="text_') < 100 and len(svg) < 500_000


def test_svg_is_reproducible_and_transparent(record):
    rows = group_records(
        [record("none", role="teacher", macs=60e6), record("cdd"), record("kd", seed=0), record("kd", seed=1)]
    )
    svg = frontier_svg(rows)
    assert svg == frontier_svg(rows)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert not re.search(r"<dc:date>|Matplotlib v", svg)
    background = root.find(".//*[@id='patch_1']/*")
    assert background is not None and "fill: none" in background.get("style", "")


def test_svg_ignores_the_settings_of_the_user(record):
    rows = group_records([record("cdd"), record("kd")])
    expected = frontier_svg(rows)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.fonttype": "none"}):
        assert frontier_svg(rows) == expected
    assert "matplotlib.pyplot" not in sys.modules


def test_single_row(record):
    assert "<svg" in frontier_svg(group_records([record("none", role="teacher")]))


@pytest.mark.parametrize(("cost", "value"), [("macs", 30e6), ("parameters", 2e6), ("bytes", 8e6), ("latency", 2.5)])
def test_costs_of_a_row(record, edit, cost, value):
    changes = {f"network.cost.{key}": number for key, number in COST.items()}
    (row,) = group_records([edit(record("kd", seed=seed), changes) for seed in (0, 1)])
    assert COSTS[cost].of(row) == Statistic(value, 0.0)


def test_bytes_of_a_stored_embedding(record, stored):
    (row,) = group_records([stored(record("kd", seed=seed), "int8") for seed in (0, 1)])
    assert COSTS["bytes-per-image"].of(row) == Statistic(128.0, 0.0)
    svg = frontier_svgs({"glyphs": [row]}, "bytes-per-image")["glyphs"]
    assert "<svg" in svg


def test_rows_of_unknown_cost_are_left_out(record, edit):
    of_seeds = [record("kd", seed=0), edit(record("kd", seed=1), {"network.cost.device": "another"})]
    assert frontier_svgs({"glyphs": group_records(of_seeds)}, "latency") == {}
    without = frontier_svgs({"glyphs": group_records([record("cdd")])}, "latency")
    assert frontier_svgs({"glyphs": group_records([record("cdd"), *of_seeds])}, "latency") == without


def test_frontier_is_a_staircase():
    points = np.array([(2, 5), (1, 3), (3, 4), (4, 6), (1, 2), (4, 6)])
    assert pareto_frontier(points).tolist() == [[1, 3], [2, 3], [2, 5], [4, 5], [4, 6]]
