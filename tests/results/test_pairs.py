"""Runs of pairs: published scores next to measured ones, on the terminal and on the pages."""

import io

import pytest
from rich.console import Console

from benchmark.recipe import Paired, find_pair
from benchmark.results.board import Board
from benchmark.results.console import authors_table
from benchmark.results.html import leaderboard_html
from benchmark.results.markdown import dataset_page
from benchmark.results.pairs import find_paired, pairs_table
from benchmark.results.rows import group_records

PAIR = "air-r101-r18-sop"


@pytest.fixture
def run(record):
    """`run(seed=1, changed=[...])` returns the record of a student that is compared with a pair."""

    def build(asymmetric=0.5, changed=(), pair=PAIR, method="d3still", **changes):
        recipe = {"method": {"name": method}, "dataset": {"name": "sop"}, "seed": changes.get("seed", 0)}
        recipe |= {"pair": {"name": pair, "changed": list(changed)}}
        return record(method, dataset="sop", asymmetric=asymmetric, recipe=recipe, **changes)

    return build


def test_terminal_shows_both_columns(run):
    console = Console(width=250, file=io.StringIO(), record=True)
    console.print(authors_table(run(changed=["train.schedule.epochs"]), Paired(name=PAIR, changed=("image_size",))))
    lines = [" ".join(line.split()) for line in console.export_text().splitlines()]
    assert f"authors / here: {PAIR}, seed 0" in lines
    assert "teacher mAP 72.42 73.5 +1.1" in lines
    assert "teacher R@1 87.13 83.5 -3.6" in lines
    assert "student asymmetric mAP 51.12 50.0 -1.1" in lines
    assert "student asymmetric R@1 68.42 60.0 -8.4" in lines
    assert "not as in the pair: image_size" in lines
    assert any(line.startswith("student: SCY-X/D3still at 98a0f43fe05a: README.md (table of SOP") for line in lines)


def test_board_shows_both_columns(run, record):
    changed = ["train.schedule.epochs"]
    rows = group_records([run(0.5, changed), run(0.52, changed, seed=1), record("kd", dataset="sop")])
    table = pairs_table(rows)
    assert [cell.text for cell in table.rows[2].cells] == [
        *("`d3still`", f"`{PAIR}`", "student", "asymmetric mAP", "51.12", "51.0 ± 1.4", "-0.1"),
        "`train.schedule.epochs`",
        table.rows[2].cells[-1].text,
    ]
    assert "README.md" in table.rows[2].cells[-1].text
    assert [row.cells[3].text for row in table.rows] == ["mAP", "R@1", "asymmetric mAP", "asymmetric R@1"]
    board = Board(rows, None)
    assert "## Authors and here" in dataset_page(board)
    assert "sop, authors and here" in leaderboard_html([board], {board.name: "<svg/>"}, {})


def test_pages_without_pairs_lack_the_section(record):
    assert "Authors and here" not in dataset_page(Board(group_records([record("d3still", dataset="sop")]), None))


def test_other_images_make_a_comparison_unequal(run, edit):
    assert [row.cells[7].text for row in pairs_table(group_records([run()])).rows] == ["-"] * 4
    other = edit(run(), {"variant": {"dataset.images": "nonstandard"}})
    assert [row.cells[7].text for row in pairs_table(group_records([other])).rows] == ["`dataset.images`"] * 4


def test_missing_score(run):
    rows = group_records([run(asymmetric=None)])
    assert [cell.text for cell in pairs_table(rows).rows[2].cells[4:7]] == ["51.12", "-", "-"]


@pytest.mark.parametrize(
    "changes",
    [{"pair": "unknown"}, {"method": "kd"}, {"pair": find_pair(PAIR).title}, {"pair": 3}, {"changed": [1]}],
)
def test_pairs_of_other_runs_are_ignored(run, changes):
    assert find_paired(run(**changes)) is None


def test_a_pair_does_not_separate_rows(run, record):
    without = run(seed=1)
    without = without.model_copy(update={"recipe": {k: v for k, v in without.recipe.items() if k != "pair"}})
    (row,) = group_records([run(), without])
    assert len(row.records) == 2
    assert pairs_table([row]).rows[2].cells[5].text == "50.0"
