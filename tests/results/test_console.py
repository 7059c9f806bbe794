import io

import pytest
from rich.console import Console

from benchmark.results.console import conclusion, reproduction_table, result_table
from benchmark.results.reproduction import Reproduction
from benchmark.results.rows import group_records

BUDGET = {"kind": "macs", "target": 0.42, "reached": 0.9, "met": False}
CEILINGS = {"parameters": 0.63, "macs": 0.61, "ceiling_parameters": 0.71, "ceiling_macs": 0.68}


def render(table):
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table)
    return [" ".join(line.split()) for line in console.export_text().splitlines()]


def test_result_fits_in_80_columns(record):
    lines = render(result_table(record(macs=22e6)))
    assert "teacher 73.5 83.5 93.5 3.00 M 60.0 M 120 M - 6.00 / 300" in lines
    assert "student 72.0 82.0 92.0 1.10 M 22.0 M 44.0 M 63.3 / 63.3 2.20 / 110" in lines
    assert "latency in ms for a batch of 1 / 64 on cpu, 2 threads" in lines


def test_result_of_a_teacher(record):
    lines = render(result_table(record("none", role="teacher")))
    assert any(line.startswith("teacher 72.0") for line in lines)
    assert not any("student" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"saved": CEILINGS}, "this architecture can save at most 71.0 / 68.0 %"),
        (
            {"saved": CEILINGS | {"reset_ceiling_parameters": 0.35, "reset_ceiling_macs": 0.34}},
            "gradient resetting alone can save at most 35.0 / 34.0 %",
        ),
        ({"budget": BUDGET}, "budget missed: 90.0 % of the teacher's macs instead of 42.0 %"),
        (
            {"scores.symmetric.queries": 10, "scores.symmetric.skipped": 3},
            "3 of 10 queries have no correct match and do not count",
        ),
        (
            {"network.cost.latency_range_ms": {"1": [1.0, 1.2], "64": [90.0, 300.0]}},
            "unstable latency, batch of 64: 90 to 300 ms; the machine was probably busy",
        ),
        ({"network.name": "resnet26 [32, 64]"}, "teacher: resnet26 64-128-256; student: resnet26 [32, 64]"),
    ],
)
def test_caption_of_a_result(record, edit, changes, line):
    assert line in render(result_table(edit(record(), changes)))


def test_caption_has_no_budget_that_is_met(record):
    lines = render(result_table(record(budget=BUDGET | {"reached": 0.4, "met": True})))
    assert not any("budget" in line for line in lines)


def test_reproduction(record, edit):
    rerun = edit(
        record(mAP=0.7312, macs=21e6),
        {"network.weights": "b" * 64, "scores.symmetric.recall": {"1": 0.8312, "5": 0.9312}},
    )
    lines = render(reproduction_table(Reproduction(record(mAP=0.72), rerun)))
    expected = [
        "cdd on glyphs, seed 0",
        "mAP 72.00 73.12",
        "R@5 92.00 93.12",
        "R@10 97.00 -",
        "parameters 1,100,000 1,050,000",
        "MACs 22,000,000 21,000,000",
        f"weights {'a' * 16} {'b' * 16}",
    ]
    assert set(expected) <= set(lines)


class TestConclusion:
    def test_compares_with_the_teacher_and_the_student_alone(self, record):
        kd, alone = record("kd", mAP=0.72, macs=22e6), [record("none", seed=seed, mAP=0.7) for seed in range(3)]
        assert conclusion(kd, group_records([kd, *alone])) == (
            "With 36.7 % of the teacher's MACs, the student has an mAP of 72.0, 1.5 points below the teacher and 2.0 "
            "points above the student trained alone (3 seeds)."
        )

    def test_without_a_student_alone(self, record):
        kd = record("kd", mAP=0.75, macs=22e6)
        for others in ([], [kd], [kd, record("none", dataset="veri776")], [kd, record("none", recipe={"budget": 0.1})]):
            assert conclusion(kd, group_records(others)).endswith("has an mAP of 75.0, 1.5 points above the teacher.")

    def test_of_the_student_alone(self, record):
        alone = record("none", mAP=0.7, macs=22e6)
        assert conclusion(alone, group_records([alone])).endswith("an mAP of 70.0, 3.5 points below the teacher.")
