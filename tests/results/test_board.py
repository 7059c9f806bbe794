"""The tables of a leaderboard: rows, references of gains, notes, placeholders, and tables over datasets and costs."""

import numpy as np
import pytest

from benchmark.results.board import Board, cost_range, equal_cost_table, overview
from benchmark.results.rows import group_records
from benchmark.results.step_costs import StepCosts

COSTS = StepCosts(
    dataset="glyphs", device="cpu", threads=1, torch="2.9.0", batch=96, rounds=9, ratios={"none": 1.0, "kd": 1.5}
)
CEILINGS = {"parameters": 0.63, "macs": 0.61, "ceiling_parameters": 0.71, "ceiling_macs": 0.68}


def board_of(*records, costs=None):
    return Board(group_records(records), costs)


def texts(table):
    """The texts of all cells, by header."""
    return [dict(zip(table.headers, [cell.text for cell in row.cells], strict=True)) for row in table.rows]


def sort_keys(table, header):
    column = list(table.headers).index(header)
    return [row.cells[column].sort_key for row in table.rows]


def notes_of(board, method):
    """The texts of the notes that the row of a method refers to, by header."""
    (row,) = (row for row in board.table.rows if row.method == method)
    return {
        header: [board.notes.texts[number - 1] for number in cell.notes]
        for header, cell in zip(board.table.headers, row.cells, strict=True)
        if cell.notes
    }


def test_cells(record):
    board = board_of(
        record("none", role="teacher", mAP=0.735, macs=60e6),
        *(record("none", seed=seed, mAP=0.6 + seed / 100) for seed in range(3)),
        costs=COSTS,
    )
    teacher, none = texts(board.table)
    assert list(none.items())[:-1] == [
        ("method", "`none`"),
        ("teacher", "resnet26 64-128-256"),
        ("student", "resnet26 32-64-128"),
        ("mAP", "61.0 ± 1.0"),
        ("R@1", "71.0 ± 1.0"),
        ("R@5", "81.0 ± 1.0"),
        ("R@10", "86.0 ± 1.0"),
        ("asymmetric mAP", "-"),
        ("parameters", "1.10 M"),
        ("MACs", "22.0 M"),
        ("FLOPs", "44.0 M"),
        ("bytes per image", "512"),
        ("saved (parameters / MACs)", "63.3 / 63.3"),
        ("ms, batch 1", "2.20"),
        ("ms, batch 64", "110"),
        ("training step", "x 1.00"),
    ]
    assert (teacher["method"], teacher["teacher"], teacher["student"]) == ("teacher", "resnet26 64-128-256", "-")
    assert (teacher["mAP"], teacher["saved (parameters / MACs)"], teacher["training step"]) == ("73.5", "-", "-")
    assert sort_keys(board.table, "parameters") == [3_000_000, 1_100_000]
    assert set(board.table.headers) - set(board.table.numeric) == {"method", "teacher", "student", "seeds"}


def test_fixed_views_are_named(record):
    """Their steps lack the forward passes of the teacher, which measured costs include."""
    outputs = {"views": 8, "forward_passes": 80, "bytes": 100, "seconds": 2.0}
    fixed = record("kd", mAP=0.7, teacher_outputs=outputs, recipe={"teacher": {"cached_views": 8}})
    board = board_of(record("none", mAP=0.6), record("kd", mAP=0.6), fixed, costs=COSTS)
    assert [(row["method"], row["training step"]) for row in texts(board.table)[2:]] == [
        ("`kd` 8 fixed views", "-"),
        ("`kd`", f"x {COSTS.ratios['kd']:.2f}"),
    ]


def test_formats_of_embeddings_are_compared_with_their_own_kind(record, stored):
    """The baseline of a row is `none` in the same format, and the name of a row has its format."""
    records = [record("none", mAP=0.6), stored(record("none", mAP=0.5), "int8"), record("kd", mAP=0.7)]
    board = board_of(*records, stored(record("kd", mAP=0.65), "int8"), stored(record("kd", mAP=0.4), "pq:16x8"))
    rows = {row.label: row for row in board.rows}
    assert [(row["method"], row["bytes per image"]) for row in texts(board.table)[1:]] == [
        *[("`none`", "512"), ("`none` int8", "128"), ("`kd`", "512"), ("`kd` int8", "128"), ("`kd` pq:16x8", "16")]
    ]
    assert board.reference("none", rows["kd"]) is rows["none"]
    assert board.reference("none", rows["kd int8"]) is rows["none int8"]
    assert board.reference("none", rows["kd pq:16x8"]) is None
    assert [{row.label for row in group.rows} for group in board.groups] == [{"kd", "none"}, {"kd int8", "none int8"}]


def test_rows_are_compared_with_their_own_teacher(record, edit, with_queries):
    teachers = [record("none", role="teacher", mAP=mAP, variant=name) for mAP, name in ((0.8, "a"), (0.7, "b"))]
    student = edit(record("kd", mAP=0.75), {"teacher.record": teachers[1].id})
    board = board_of(*map(with_queries, (*teachers, student)))
    first, second, kd = board.rows
    assert [row.method for row in board.rows] == ["teacher", "teacher", "kd"] and first.mAP.mean > second.mAP.mean
    assert board.gain("teacher", kd).mean == pytest.approx(0.05)
    assert board.gain("teacher", first) is board.gain("teacher", second) is None


def test_rows_are_not_compared_with_the_teacher_of_others(record, edit, with_queries):
    student = edit(record("kd", mAP=0.75), {"teacher.record": None})  # a checkpoint without a record
    others = [record("none", role="teacher"), record("none"), record("rkd")]
    board = board_of(*map(with_queries, (*others, student)))
    rows = {row.method: row for row in board.rows}
    assert board.gain("teacher", rows["kd"]) is None and board.gain("none", rows["kd"]) is not None
    assert board.gain("teacher", rows["rkd"]) is not None


def test_columns_of_gains(record, with_queries):
    generator = np.random.default_rng(0)
    teacher = with_queries(record("none", role="teacher"), generator.uniform(0.65, 0.85, 400))
    students = [
        with_queries(record(method), generator.uniform(mean - 0.1, mean + 0.1, 400))
        for method, mean in (("none", 0.6), ("kd", 0.7), ("rkd", 0.6))
    ]
    board = board_of(teacher, *students)
    assert board.table.headers[4:6] == ["mAP against `none`", "mAP against teacher"]
    rows = {row.method: cells for row, cells in zip(board.table.rows, texts(board.table), strict=True)}
    assert rows["kd"]["mAP against `none`"].startswith("+") and rows["kd"]["mAP against teacher"].startswith("-")
    assert rows["rkd"]["mAP against `none`"].startswith("≈ ")  # may be chance
    assert rows["none"]["mAP against `none`"] == rows["teacher"]["mAP against teacher"] == "-"


def test_no_columns_of_gains_without_scores_per_query(record):
    board = board_of(record("none"), record("kd"))
    assert board.references == [] and not any("against" in header for header in board.table.headers)


def test_placeholders_for_teacher_and_baseline(record):
    student = record("kd").model_copy(update={"variant": {"dataset.split": "closed"}})
    board = board_of(student)
    teacher, none, _ = texts(board.table)
    assert [row.method for row in board.table.rows] == ["teacher", "none", "kd"]
    assert (teacher["mAP"], teacher["MACs"], teacher["student"]) == ("73.5", "60.0 M", "-")
    assert none["mAP"] == none["MACs"] == "-"
    assert sort_keys(board.table, "mAP") == [0.735, None, 0.72]
    assert board.notes.texts[:2] == [
        "This teacher has no record; its values are from the record of `kd`.",
        "Not run yet; `benchmark run --method none --dataset glyphs --set dataset.split=closed --seed 0` adds it.",
    ]


def test_placeholder_for_a_teacher_without_a_record(record, edit):
    changes = {"teacher.record": None, "teacher.network": "large", "teacher.scores.mAP": 0.7}
    board = board_of(*(edit(record(method), changes) for method in ("kd", "rkd")), record("none", role="teacher"))
    assert [row.method for row in board.table.rows] == ["teacher", "teacher", "none", "kd", "rkd"]
    assert 0.7 in sort_keys(board.table, "mAP")[:2]


def test_note_on_the_reason_against_asymmetric_scores(record, edit):
    reason = {"scores.asymmetric_reason": "sizes differ"}
    board = board_of(edit(record("kd"), reason), edit(record("rkd"), reason), record("cdd", asymmetric=0.6))
    expected = {"asymmetric mAP": ["No asymmetric mAP: sizes differ."]}
    assert notes_of(board, "kd") == notes_of(board, "rkd") == expected
    assert notes_of(board, "cdd") == {}
    assert texts(board.table)[2]["asymmetric mAP"] == "60.0"


def test_note_on_a_missed_budget(record):
    budget = {"kind": "macs", "target": 0.35, "reached": 0.383, "met": False}
    met = budget | {"reached": 0.3, "met": True}
    budgets = [budget, met, budget | {"reached": 0.4}]
    records = [record("cdd", seed=seed, budget=each) for seed, each in enumerate(budgets)]
    board = board_of(*records, record("kd", budget=met))
    text = "`cdd` missed its budget of 35.0 % of the teacher's MACs: it reached 38.3 % (seed 0), 40.0 % (seed 2)."
    assert notes_of(board, "cdd")["method"] == [text]
    assert "method" not in notes_of(board, "kd")


def test_note_on_the_largest_savings(record):
    board = board_of(record("cdd", saved=CEILINGS))
    (text,) = notes_of(board, "cdd")["saved (parameters / MACs)"]
    assert "saved 63.0 % of the parameters (at most 71.0 %) and 61.0 % of the MACs (at most 68.0 %);" in text


def test_note_on_broken_images(record):
    board = board_of(record("kd", data=record().data.model_dump() | {"broken": 4}))
    assert notes_of(board, "kd")["method"] == ["Broken images that the runs of `kd` left out: 4 (seed 0)."]


def test_note_on_the_device_only_if_devices_differ(record, edit):
    assert "ms, batch 1" not in notes_of(board_of(record("kd")), "kd")
    mixed = [record("sp"), edit(record("sp", seed=1), {"network.cost.device": "cuda"})]
    board = board_of(record("kd"), edit(record("pkt"), {"network.cost.device": "cuda"}), *mixed)
    assert notes_of(board, "kd")["ms, batch 1"] == ["Latency measured on cpu, 2 threads."]
    assert notes_of(board, "pkt")["ms, batch 1"] == ["Latency measured on cuda, 2 threads."]
    (text,) = notes_of(board, "sp")["ms, batch 1"]
    assert text.startswith("No mean latency: the records were measured on different devices (cpu, 2 threads; cuda")


def test_note_on_an_unstable_latency(record, edit):
    ranges = {"1": [1.1, 21.3], "64": [100.0, 120.0]}
    board = board_of(*(edit(record("kd", seed=seed), {"network.cost.latency_range_ms": ranges}) for seed in (0, 1)))
    notes = notes_of(board, "kd")
    assert notes["ms, batch 1"] == [
        "Unstable latency of `kd` for a batch of 1, probably on a busy machine, which is not compared; 10th to 90th "
        "percentile: 1.1 to 21.3 ms (seed 0), 1.1 to 21.3 ms (seed 1)."
    ]
    assert "ms, batch 64" not in notes
    (index,) = (number for number, header in enumerate(board.table.headers) if header == "ms, batch 1")
    assert {row.method: row.cells[index].sort_key for row in board.table.rows}["kd"] is None


@pytest.mark.parametrize(("quartiles", "unstable"), [((1.0, 1.1), False), ((0.9, 1.2), True)])
def test_quartiles_decide_if_they_are_known(record, edit, quartiles, unstable):
    latencies = {"latency_ms": {"1": 1.0}, "latency_range_ms": {"1": [0.5, 2.0]}}
    latencies["latency_quartiles_ms"] = {"1": list(quartiles)}
    changed = edit(record("kd"), {f"network.cost.{key}": value for key, value in latencies.items()})
    assert (board_of(changed).rows[0].stable_latency(1) is None) == unstable


def test_overview(record):
    glyphs = group_records(
        [record("none", mAP=0.6), record("kd", mAP=0.7), record("kd", mAP=0.5, variant="b"), record(role="teacher")]
    )
    table = overview([glyphs, group_records([record("kd", dataset="veri776", macs=1.8e9)])])
    assert [list(cells.values()) for cells in texts(table)] == [
        ["teacher", "72.0 / 82.0 / 22.0 M", "-", "-"],
        ["`none`", "60.0 / 70.0 / 22.0 M", "-", "-"],
        ["`kd`", "70.0 / 80.0 / 22.0 M\n50.0 / 60.0 / 22.0 M", "72.0 / 82.0 / 1.80 G", "1.0"],
    ]
    assert sort_keys(table, "glyphs") == [0.72, 0.6, 0.7]
    assert sort_keys(table, "mean rank") == [None, None, 1.0]


def test_table_of_equal_cost(record, with_queries):
    generator = np.random.default_rng(0)
    records = [
        with_queries(record(method), generator.uniform(mean - 0.1, mean + 0.1, 400))
        for method, mean in (("none", 0.5), ("kd", 0.7), ("rkd", 0.7))
    ]
    board = board_of(*records, record("at", macs=5e6))
    (group,) = board.groups
    first, second, third = texts(equal_cost_table([group]))
    assert {first["method"], second["method"]} == {"`kd`", "`rkd`"} and third["method"] == "`none`"
    assert first["against the best"] == "best" and second["against the best"].startswith("≈ ")
    assert float(third["against the best"].split()[0]) < -15
    assert cost_range(group) == "22.0 M MACs" and "group" not in first


def test_table_of_several_groups_names_them(record):
    costs = {"none": 10e6, "kd": 10.4e6, "rkd": 20e6, "pkt": 20e6}
    board = board_of(*(record(method, macs=macs, mAP=macs / 4e7) for method, macs in costs.items()))
    table = equal_cost_table(board.groups)
    assert [(cells["method"], cells["group"]) for cells in texts(table)] == [
        *(("`kd`", "1: 10.0 M to 10.4 M MACs"), ("`none`", "1: 10.0 M to 10.4 M MACs")),
        *(("`pkt`", "2: 20.0 M MACs"), ("`rkd`", "2: 20.0 M MACs")),
    ]
    assert sort_keys(table, "against the best") == [0.0, None, 0.0, None]  # no scores per query
