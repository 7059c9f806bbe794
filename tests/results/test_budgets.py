"""Methods at several budgets."""

import math

import numpy as np
import pytest

from benchmark.results.board import Board
from benchmark.results.budgets import budgets_table, curves
from benchmark.results.forest import forest_gains, forest_svg
from benchmark.results.frontier import Mark, frontier_svg
from benchmark.results.leaderboard import differing, generate
from benchmark.results.markdown import dataset_page
from benchmark.results.rows import group_records
from benchmark.results.store import add_record

SCORES = {0.4: (0.9, 40e6), 0.2: (0.8, 20e6), 0.1: (0.6, 10e6)}


@pytest.fixture
def at_budgets(record):
    """`at_budgets("kd", shift=0.01)` returns a record per budget."""

    def build(method, *, shift=0.0, seed=0, budgets=tuple(SCORES), **extra):
        return [
            record(
                method,
                seed=seed,
                variant=f"{budget} {extra}",  # which makes the ids differ
                mAP=SCORES[budget][0] + shift,
                macs=SCORES[budget][1],
                recipe={"budget": budget, "student": {"width": budget}, "method": {"target_macs": budget}, **extra},
            )
            for budget in budgets
        ]

    return build


def test_rows_of_a_curve_differ_only_in_what_the_budget_chooses(at_budgets, record):
    records = [*at_budgets("kd"), *at_budgets("kd", temperature=9), *at_budgets("rkd", budgets=(0.2,)), record("none")]
    found = curves(group_records(records))
    assert [(curve.method, list(curve.rows)) for curve in found] == [("kd", [0.4, 0.2, 0.1])] * 2


def test_tuned_rows_are_beside_published_ones(at_budgets):
    records = [
        *at_budgets("kd"),
        *at_budgets("kd", shift=0.02, settings={"source": "tuned"}),
        *at_budgets("none", shift=-0.02),
    ]
    board = Board(group_records(records), None)
    assert [row.cells[0].text for row in budgets_table(board.curves).rows] == ["`kd` tuned", "`kd`", "`none`"]
    assert [curve.method for curve in board.curves].count("kd tuned") == 1
    assert "| `kd` tuned " in dataset_page(board)


def test_area_is_the_mean_over_the_logarithm_of_the_cost(at_budgets):
    (curve,) = curves(group_records(at_budgets("kd")))
    assert curve.area(list(SCORES)).mean == pytest.approx((0.85 + 0.7) / 2)
    (curve,) = curves(group_records(at_budgets("kd", budgets=(0.4, 0.1))))
    assert curve.area([0.4, 0.1]).mean == pytest.approx(0.75)
    assert curve.area(list(SCORES)) is None


def test_area_has_the_deviation_over_the_seeds(at_budgets):
    records = [each for seed, shift in enumerate((0.0, 0.02)) for each in at_budgets("kd", seed=seed, shift=shift)]
    (curve,) = curves(group_records(records))
    assert curve.area(list(SCORES)).std == pytest.approx(0.02 / math.sqrt(2))
    (curve,) = curves(group_records(records[:-1]))
    assert curve.area(list(SCORES)) is None


def test_table_and_page(at_budgets):
    records = [*at_budgets("kd", shift=0.01), *at_budgets("none"), *at_budgets("rkd", budgets=(0.4, 0.2))]
    board = Board(group_records(records), None)
    table = budgets_table(board.curves)
    assert list(table.headers) == ["method", *(f"mAP at {b} % of the MACs" for b in (40, 20, 10)), "area"]
    assert [[cell.text for cell in row.cells] for row in table.rows] == [
        ["`kd`", "91.0", "81.0", "61.0", "78.5"],
        ["`none`", "90.0", "80.0", "60.0", "77.5"],
        ["`rkd`", "90.0", "80.0", "-", "-"],
    ]
    assert "## At each budget" in dataset_page(board)


def test_gains_are_over_the_student_alone_of_the_same_budget(at_budgets):
    rows = group_records([*at_budgets("kd", shift=0.01), *at_budgets("none")])
    board = Board(rows, None)
    for row in rows:
        if row.method == "kd":
            assert board.reference("none", row).budget == row.budget


def test_plot_has_a_line_and_a_label_per_curve():
    marks = [Mark(name, macs, mAP, 0.01, curve) for curve, name in enumerate("ab") for mAP, macs in SCORES.values()]
    svg = frontier_svg("board", marks)
    alone = frontier_svg("board", [mark._replace(curve=-1) for mark in marks])
    assert svg.count("<!-- a -->") == 1 and alone.count("<!-- a -->") == 3


def test_forest_has_a_panel_per_budget(at_budgets, with_queries):
    base = np.random.default_rng(0).uniform(0.3, 0.7, 200)
    records = [with_queries(each, base) for each in at_budgets("none")]
    records += [with_queries(each, base + 0.02) for each in at_budgets("kd")]
    gains = forest_gains(Board(group_records(records), None))
    assert list(gains) == [0.4, 0.2, 0.1]
    assert all(of_methods["kd"].mean == pytest.approx(0.02) for of_methods in gains.values())
    svg = forest_svg("board", gains)
    assert svg.count("% of the MACs -->") == 3 and svg.count("<!-- kd -->") == 1


def test_forest_is_a_file_of_the_leaderboards(at_budgets, with_queries, tmp_path):
    for each in (*at_budgets("none"), *at_budgets("kd")):
        add_record(with_queries(each, np.linspace(0.3, 0.7, 50)), tmp_path / "records")
    generate(tmp_path)
    assert "(glyphs-forest.svg)" in (tmp_path / "glyphs.md").read_text()
    assert (tmp_path / "glyphs-forest.svg").is_file() and not differing(tmp_path)
    for path in (tmp_path / "records").glob("*kd*"):
        path.unlink()
    generate(tmp_path)
    assert not (tmp_path / "glyphs-forest.svg").exists()
