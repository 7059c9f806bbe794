import random

import pytest

from benchmark.results.rows import Statistic, group_records


def test_mean_and_deviation_over_seeds(record):
    (row,) = group_records(
        record(seed=seed, mAP=mAP, macs=macs) for seed, mAP, macs in [(0, 0.7, 20e6), (1, 0.72, 22e6)]
    )
    assert row.mAP.mean == pytest.approx(0.71)
    assert row.mAP.std == pytest.approx(0.02 / 2**0.5)  # n - 1
    assert row.recall(1).mean == pytest.approx(0.81)
    assert row.macs.mean == 21e6
    assert row.latency(1).mean == pytest.approx(2.1)
    assert row.saved("macs").mean == pytest.approx(1 - 21 / 60)
    assert [each.seed for each in row.records] == [0, 1]


def test_single_seed_has_no_deviation(record):
    (row,) = group_records([record(mAP=0.7)])
    assert row.mAP == Statistic(0.7, None)


def test_no_mean_over_incomplete_values(record):
    (row,) = group_records([record(seed=0, asymmetric=0.5), record(seed=1)])
    assert row.asymmetric_mAP is None
    assert row.recall(50) is None
    assert row.saved("ceiling_macs") is None


def test_no_asymmetric_score_where_a_record_has_a_reason_against_it(record, edit):
    reason = {"scores.asymmetric_reason": "cdd leaves the student's embeddings apart from the teacher's"}
    (row,) = group_records([edit(record(asymmetric=0.5), reason)])
    assert row.asymmetric_mAP is None


def test_no_mean_latency_over_different_devices(record, edit):
    (row,) = group_records([record(seed=0), edit(record(seed=1), {"network.cost.device": "cuda"})])
    assert row.latency(1) is None
    assert row.devices == ["cpu, 2 threads", "cuda, 2 threads"]


def test_what_separates_rows(record):
    content = record().model_dump()
    other_teacher = content["teacher"] | {"network": "resnet50"}
    records = [
        *(record(seed=0), record(seed=1)),
        record(seed=0, variant="budget"),
        record(seed=2, teacher=other_teacher),
        record(seed=3, data=content["data"] | {"broken": 4}),
        record("kd"),
        record(dataset="veri776"),
    ]
    assert sorted(len(row.records) for row in group_records(records)) == [1, 1, 1, 1, 1, 2]


def test_seeds_at_any_depth_do_not_separate_rows(record):
    recipes = [{"seed": seed, "teacher": {"seed": seed}, "steps": [{"seed": seed}]} for seed in (0, 1)]
    (row,) = group_records(record(seed=seed, recipe=recipe) for seed, recipe in enumerate(recipes))
    assert len(row.records) == 2


def test_order(record):
    records = [
        record("kd", mAP=0.6),
        record("rkd", mAP=0.9),
        record("none", mAP=0.5),
        record("none", role="teacher", mAP=0.7),
        record("afd", mAP=0.6),
    ]
    for _ in range(5):
        random.shuffle(records)
        assert [row.method for row in group_records(records)] == ["teacher", "none", "rkd", "afd", "kd"]


def test_records_on_other_images_are_on_another_board(record, edit):
    def on(fingerprint, *records):
        return [edit(each, {"data.fingerprint": fingerprint}) for each in records]

    records = [
        *(*on("a" * 64, record("none"), record("kd")), *on("b" * 64, record("kd", seed=1))),
        *on(None, record("none", seed=2), record("kd", seed=2), record("rkd")),
        *on("a" * 64, record("kd", dataset="veri776")),
    ]
    for _ in range(5):
        random.shuffle(records)
        assert [(row.board, row.method, len(row.records)) for row in group_records(records)] == [
            *(("glyphs", "none", 1), ("glyphs", "kd", 1), ("glyphs-data-bbbbbbbb", "kd", 1)),
            *(("glyphs-data-unknown", "none", 1), ("glyphs-data-unknown", "kd", 1), ("glyphs-data-unknown", "rkd", 1)),
            ("veri776", "kd", 1),
        ]


def test_records_with_another_set_of_teachers_are_on_another_board(record):
    """Whatever the order of the teachers."""
    one = [record("kd", seed=seed) for seed in (0, 1, 2)]
    first = one[0].teacher
    second = first.model_copy(update={"record": "0" * 12, "network": "resnet50"})
    two = [
        record("unic", teacher=teacher, more_teachers=(other,), variant=name)
        for name, teacher, other in (("straight", first, second), ("reversed", second, first))
    ]
    rows = group_records([*one, *two])
    boards = {row.method: row.board for row in rows}
    assert boards["kd"] == "glyphs"
    assert boards["unic"].startswith("glyphs-teacher-")
    assert {row.teacher for row in rows if row.board == boards["unic"]} == {
        f"{first.network} + resnet50",
        f"resnet50 + {first.network}",
    }


def test_records_with_another_teacher_are_on_another_board(record, edit):
    """Also if the teachers are two trainings of one recipe, which differ between machines."""
    teachers = [record("none", role="teacher", mAP=0.735), record("none", role="teacher", mAP=0.71)]
    students = [
        edit(record("kd", seed=seed), {"teacher.record": teachers[0].id, "teacher.scores.mAP": mAP})
        for seed, mAP in enumerate((0.735, 0.735, 0.71))
    ]
    unused = record("none", role="teacher", mAP=0.5, recipe={"other": 1})
    for _ in range(5):
        random.shuffle(students)
        boards = {}
        for row in group_records([*teachers, *students, unused]):
            boards.setdefault(row.board, []).append((row.method, len(row.records)))
        assert boards.pop("glyphs") == [("teacher", 1), ("teacher", 1), ("kd", 2)]  # a teacher without students, too
        ((name, rows),) = boards.items()
        assert name.startswith("glyphs-teacher-") and rows == [("teacher", 1), ("kd", 1)]
