"""The Markdown pages: tables, notes, links, data and commands."""

import re

import pytest

from benchmark.results.board import Board
from benchmark.results.markdown import dataset_page, index_page, reported_page
from benchmark.results.reported import Reported
from benchmark.results.rows import group_records
from benchmark.results.step_costs import StepCosts

PUBLISHED = Reported.model_validate(
    {
        "dataset": "glyphs",
        "results": [
            {
                "method": "kd",
                "teacher": "a|b",
                "student": "small",
                "figures": {"mAP": 61.5, "R@1": 70},
                "protocol": "theirs",
                "source": "a paper, Table 3",
            },
            {
                "method": "alone",
                "teacher": None,
                "student": "small",
                "figures": {"gain": -0.17},
                "protocol": "theirs",
                "source": "a paper, Table 3",
                "caveats": "read in the abstract",
            },
        ],
    }
)
PUBLISHED_ROWS = [
    ["kd", r"a\|b", "small", "mAP: 61.5<br>R@1: 70.0", "theirs", "a paper, Table 3", "-"],
    ["alone", "-", "small", "gain: -0.17", "theirs", "a paper, Table 3", "read in the abstract"],
]


def page_of(*records, costs=None, reported=None):
    return dataset_page(Board(group_records(records), costs), reported)


def tables(page):
    """The cells of every table, without headers."""
    blocks = [block.splitlines()[2:] for block in page.split("\n\n") if block.startswith("|")]
    return [[[cell.strip() for cell in line[1:-1].split(" | ")] for line in block] for block in blocks]


def test_table_and_notes(record):
    page = page_of(record("none", role="teacher"), record("none"), record("kd"), record("cdd", asymmetric=0.6))
    assert [cells[0] for cells in tables(page)[0]] == ["teacher", "`none`", "`cdd`", "`kd`"]
    assert page.count("- <sup>1</sup>") == 3
    assert "\n1. No asymmetric mAP: embedding sizes differ (128 and 256).\n" in page
    assert "Latency was measured on cpu, 2 threads." in page


def test_cells_escape_pipes_and_break_lines(record, edit):
    page = page_of(edit(record("kd"), {"network.name": "a|b"}), edit(record("kd", seed=1), {"network.name": "c"}))
    assert tables(page)[0][-1][2] == r"a\|b<br>c"


def test_caption_describes_training_steps(record):
    costs = StepCosts(dataset="glyphs", device="cpu", threads=1, torch="2.9.0", batch=96, rounds=9, ratios={})
    assert "Training steps were measured with 96 images on cpu, 1 thread." in page_of(record(), costs=costs)
    assert "Training steps" not in page_of(record())


def test_caption_describes_gains(record, with_queries):
    records = [record("none"), record("kd")]
    assert (
        "confidence interval for other queries and other seeds"
        in page_of(*map(with_queries, records)).partition("|")[0]
    )
    assert "confidence interval" not in page_of(*records)


def test_equal_cost_section(record):
    page = page_of(record("none", macs=10e6), record("kd", macs=10.4e6), record("rkd", macs=20e6))
    assert "## At equal cost" in page and "### 10.0 M to 10.4 M MACs" in page
    assert "## At equal cost" not in page_of(record("none", macs=10e6), record("kd", macs=20e6))


def test_seeds_link_to_their_records(record):
    records = [record("kd", seed=seed) for seed in range(3)]
    links = re.findall(r"\[(\d)\]\(records/([^)]+)\)", page_of(*records))
    assert links == [(str(each.seed), f"glyphs-kd-seed{each.seed}-{each.id}.json") for each in records]


def test_commands_reproduce_the_first_record_of_every_row(record):
    records = [record("none", role="teacher"), record("kd"), record("kd", seed=1)]
    page = page_of(*records, record("kd", variant="longer", mAP=0.5))
    commands = re.findall(r"^benchmark reproduce leaderboards/(.*)$", page, flags=re.MULTILINE)
    links = [re.search(r"\((records/[^)]+)\)", cells[-1]) for cells in tables(page)[0]]
    assert commands == [link[1] for link in links if link] and len(set(commands)) == 3
    assert "default recipe instead: `benchmark run --method NAME --dataset glyphs --seed 0`." in page


def test_commands_set_the_variant(record, edit):
    variant = {"dataset.split": "closed", "dataset.sizes": [1, 2]}
    page = page_of(edit(record("kd"), {"variant": variant}))
    assert "--dataset glyphs --set 'dataset.sizes=[1, 2]' --set dataset.split=closed --seed 0`" in page


def test_data_section(record, edit):
    page = page_of(edit(record(), {"data.skipped": {"train: no label": 1200}, "data.broken": 2}))
    assert ["train", "14,000", "500", "16"] in tables(page)[-1]
    assert "Protocol: average precision: rectangular, camera rule: on, query in gallery: off, recall at: 1/5/10" in page
    assert "Queries: 1,500, of which 3 have no correct match and do not count." in page
    assert "Files left out: train: no label (1,200)." in page and "**Broken images left out: 2.**" in page


def test_data_section_warns_of_several_versions(record, edit):
    page = page_of(record("kd"), edit(record("pkt"), {"data.fingerprint": "e" * 64}))
    assert "made with 2 different versions of the data: compare only rows that share one" in page


def test_published_results_are_apart_from_measured_ones(record):
    measured, published = page_of(record(), reported=PUBLISHED).split("## Reported elsewhere")
    assert "a paper" not in measured
    assert "These values were not measured here and are not comparable" in published
    assert tables(published) == [PUBLISHED_ROWS]
    assert "Reported elsewhere" not in page_of(record())


def test_reported_page():
    page = reported_page({"glyphs": PUBLISHED, "glyphs-closed": PUBLISHED}, measured={"glyphs"})
    assert tables(page) == [PUBLISHED_ROWS, PUBLISHED_ROWS]
    assert page.count("were not measured here") == 2
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## glyphs", "## glyphs-closed"]
    assert page.count("](glyphs.md)") == 1 and "](glyphs-closed.md)" not in page


@pytest.mark.parametrize("reported", [{}, {"glyphs": PUBLISHED}])
def test_index(record, reported):
    page = index_page([group_records([record("none"), record("kd")])], reported)
    assert "| [glyphs](glyphs.md) " in page and "- [glyphs](glyphs.md): 2 records in 2 rows" in page
    assert ("[Reported elsewhere](reported.md)" in page) == bool(reported)
    assert "61.5" not in page
    for part in ("## Columns", "- **training step**", "## Submit a record", "benchmark leaderboard --check"):
        assert part in page


def test_index_without_records():
    page = index_page([], {})
    assert "No records yet." in page and "leaderboard.csv" not in page and "## Pages" not in page
