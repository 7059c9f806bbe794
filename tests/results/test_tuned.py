"""Published and tuned arguments, next to each other."""

import pytest

from benchmark.results.board import Board
from benchmark.results.html import leaderboard_html
from benchmark.results.markdown import dataset_page
from benchmark.results.rows import group_records
from benchmark.results.tuned import published_rows, tuned_table

TUNED = {"source": "tuned", "study": "a" * 64}


@pytest.fixture
def run(record, with_queries):
    """`run("kd", 0.7, budget=0.4)` returns a record of a recipe with these keys, with two queries."""

    def build(method, mAP, **recipe):
        made = record(method, variant=str(recipe), recipe={"method": {"name": method}, **recipe})
        return with_queries(made, [mAP - 0.1, mAP + 0.1])

    return build


def test_pairs_have_the_same_method_recipe_and_budget(run):
    rows = group_records(
        [
            run("kd", 0.7, budget=0.4),
            run("kd", 0.6, budget=0.2),
            run("kd", 0.72, budget=0.4, settings=TUNED),
            run("kd", 0.65, budget=0.2, settings=TUNED),
            run("kd", 0.75, budget=0.2, settings=TUNED, train={"schedule": {"epochs": 9}}),
            run("rkd", 0.71, budget=0.4, settings=TUNED),
            run("none", 0.5, budget=0.4),
        ]
    )
    pairs = {(tuned.mAP.mean, other.mAP.mean) for tuned, other in published_rows(rows).items()}
    assert pairs == {(0.72, 0.7), (0.65, 0.6)}


def test_table_states_the_difference(run):
    records = [run("kd", 0.7, budget=0.4), run("kd", 0.6, budget=0.4, settings=TUNED)]
    board = Board(group_records(records), None)
    (row,) = tuned_table(board.published, board.tuning_gains).rows
    assert [cell.text for cell in row.cells[:4]] == ["`kd`", "40 %", "70.0", "60.0"]
    assert "-10.0 [" in row.cells[4].text
    assert "## Published and tuned arguments" in dataset_page(board)
    assert "with published and tuned arguments" in leaderboard_html([board], {board.name: "<svg/>"}, {})


def test_section_is_missing_without_tuned_rows(run):
    assert "## Published" not in dataset_page(Board(group_records([run("kd", 0.7)]), None))
