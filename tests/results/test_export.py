"""The leaderboards as a CSV file."""

import csv
import io

import pytest

from benchmark.results.board import Board
from benchmark.results.export import leaderboard_csv
from benchmark.results.rows import group_records
from benchmark.results.step_costs import StepCosts

COSTS = StepCosts(
    dataset="glyphs", device="cpu", threads=1, torch="2.9.0", batch=96, rounds=9, ratios={"none": 1.0, "kd": 1.5}
)


def export(*boards):
    """The lines of the CSV file of boards, given as lists of records, by board and method."""
    text = leaderboard_csv([Board(group_records(records), costs) for records, costs in boards])
    return {(line["board"], line["method"]): line for line in csv.DictReader(io.StringIO(text))}


@pytest.fixture
def lines(record, edit, with_queries):
    """Lines of glyphs, with three seeds of kd and measured training steps, and of veri776, with other K of Recall@K."""
    glyphs = [
        *(with_queries(record("none", mAP=0.75, role="teacher", macs=60e6)), with_queries(record("none", mAP=0.6))),
        *(with_queries(record("kd", mAP=0.61 + seed / 100, seed=seed, asymmetric=0.5)) for seed in range(3)),
        record("pkt", mAP=0.55),
        record("rkd", mAP=0.5, data=record().data.model_dump() | {"fingerprint": "0" * 64}),
    ]
    veri = edit(record("kd", dataset="veri776", mAP=0.5), {"scores.symmetric.recall": {"1": 0.6, "100": 0.9}})
    return export((glyphs, COSTS), ([veri], None))


def test_lines_are_in_the_order_of_the_pages(lines):
    expected = [("glyphs", name) for name in ("teacher", "none", "kd", "pkt", "rkd")] + [("veri776", "kd")]
    assert list(lines) == expected


def test_values(lines):
    expected = {
        "teacher": "resnet26 64-128-256",
        "network": "resnet26 32-64-128",
        "latency_device": "cpu, 2 threads",
        "seed_count": "3",
        "seeds": "0 1 2",
        "mAP_fraction_mean": "0.62",
        "mAP_fraction_std": "0.01",
        "recall_at_1_fraction_mean": "0.72",
        "asymmetric_mAP_fraction_mean": "0.5",
        "parameters_count_mean": "1100000",
        "macs_count_mean": "22000000",
        "macs_count_std": "0",
        "flops_count_mean": "44000000",
        "saved_parameters_fraction_mean": "0.633333",
        "latency_batch_64_ms_mean": "110",
        "training_step_multiple_of_none_mean": "1.5",
        "mean_rank": "1.0",
    }
    line = lines["glyphs", "kd"]
    assert {name: line[name] for name in expected} == expected
    assert line["records"].split()[1].startswith("records/glyphs-kd-seed1-")


def test_unknown_values_are_empty(lines):
    teacher = lines["glyphs", "teacher"]
    assert teacher["teacher"] == teacher["saved_macs_fraction_mean"] == teacher["mAP_fraction_std"] == ""
    assert teacher["training_step_multiple_of_none_mean"] == teacher["mean_rank"] == ""
    assert lines["veri776", "kd"]["recall_at_100_fraction_mean"] == "0.9"
    assert lines["veri776", "kd"]["recall_at_5_fraction_mean"] == ""
    assert lines["glyphs", "kd"]["recall_at_100_fraction_mean"] == ""
    assert lines["glyphs", "pkt"]["training_step_multiple_of_none_mean"] == ""


@pytest.mark.parametrize(
    ("method", "over", "values"),
    [
        # The queries are alike. The three seeds of `kd` deviate by 0.01, with two degrees of freedom; the deviation of
        # `none`, with one seed, is taken to be the same: 0.01 * sqrt(1 / 3 + 1) * 4.303.
        ("kd", "none", ["0.02", "-0.029683", "0.069683"]),
        ("kd", "teacher", ["-0.13", "-0.179683", "-0.080317"]),
        ("none", "best_at_equal_cost", ["-0.02", "-0.069683", "0.029683"]),
        pytest.param("none", "none", ["", "", ""], id="itself"),
        pytest.param("teacher", "teacher", ["", "", ""], id="teacher over itself"),
        pytest.param("kd", "best_at_equal_cost", ["", "", ""], id="the best over itself"),
        pytest.param("pkt", "none", ["-0.05", "", ""], id="no scores per query"),
        pytest.param("pkt", "best_at_equal_cost", ["-0.07", "", ""], id="no scores per query at equal cost"),
        pytest.param("rkd", "none", ["", "", ""], id="other data"),
        pytest.param("rkd", "best_at_equal_cost", ["", "", ""], id="other data at equal cost"),
    ],
)
def test_gains(lines, method, over, values):
    line = lines["glyphs", method]
    assert [line[f"mAP_gain_over_{over}_fraction_{part}"] for part in ("mean", "low", "high")] == values


def test_equal_cost_groups(lines):
    groups = {key: line["equal_cost_group"] for key, line in lines.items() if line["equal_cost_group"]}
    assert groups == {("glyphs", method): "1" for method in ("kd", "none", "pkt")}


def test_quotes_names_with_commas(record, edit):
    line = export(([edit(record("kd"), {"network.name": 'resnet "a", b'})], None))["glyphs", "kd"]
    assert line["network"] == 'resnet "a", b'


def test_range_of_latencies_if_the_records_have_it(record, edit):
    ranges = ([1.0, 1.2], [0.9, 3.0])
    records = [
        edit(record("kd", seed=seed), {"network.cost.latency_range_ms": {"1": limits, "64": limits}})
        for seed, limits in enumerate(ranges)
    ]
    lines = export(([record("none"), *records], None))
    line = lines["glyphs", "kd"]
    assert (line["latency_batch_1_ms_p10"], line["latency_batch_1_ms_p90"]) == ("0.9", "3")
    assert lines["glyphs", "none"]["latency_batch_1_ms_p10"] == ""
    assert "latency_batch_1_ms_p10" not in export(([record("none")], None))["glyphs", "none"]


def test_spreadsheets_compute_nothing(record, edit):
    changes = {"network.name": "=HYPERLINK(0)", "network.cost.device": "+cpu", "teacher.network": "@x"}
    line = export(([edit(record("kd"), changes)], None))["glyphs", "kd"]
    assert (line["network"], line["teacher"]) == ("'=HYPERLINK(0)", "'@x")
    assert line["latency_device"] == "'+cpu, 2 threads"
