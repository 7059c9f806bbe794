import random

import pytest

from benchmark.results.rows import Statistic, summarise


def test_mean_and_deviation_over_seeds(record):
    (row,) = summarise(record(seed=seed, mAP=mAP, macs=macs) for seed, mAP, macs in [(0, 0.7, 20e6), (1, 0.72, 22e6)])
    assert row.mAP.mean == pytest.approx(0.71)
    assert row.mAP.std == pytest.approx(0.02 / 2**0.5)  # n - 1
    assert row.recall(1).mean == pytest.approx(0.81)
    assert row.macs.mean == 21e6
    assert row.latency(1).mean == pytest.approx(2.1)
    assert row.saved("macs").mean == pytest.approx(1 - 21 / 60)
    assert [each.seed for each in row.records] == [0, 1]


def test_a_single_seed_has_no_deviation(record):
    (row,) = summarise([record(mAP=0.7)])
    assert row.mAP == Statistic(0.7, None)


def test_no_mean_where_a_seed_lacks_the_figure(record):
    (row,) = summarise([record(seed=0, asymmetric=0.5), record(seed=1)])
    assert row.over(lambda each: each.scores.asymmetric and each.scores.asymmetric.mAP) is None
    assert row.recall(50) is None
    assert row.saved("ceiling_macs") is None


def test_latencies_of_different_devices_are_not_averaged(record):
    other = record(seed=1).model_dump()
    other["network"]["cost"]["device"] = "cuda"
    (row,) = summarise([record(seed=0), type(record()).model_validate(other)])
    assert row.latency(1) is None
    assert row.devices == ["cpu, 2 threads", "cuda, 2 threads"]


def test_what_makes_a_row(record):
    other_teacher = record().model_dump()["teacher"] | {"network": "resnet50"}
    rows = summarise(
        [
            record(seed=0),
            record(seed=1),
            record(seed=0, variant="budget"),
            record(seed=2, teacher=other_teacher),
            record("kd"),
            record(dataset="veri776"),
        ]
    )
    assert sorted(len(row.records) for row in rows) == [1, 1, 1, 1, 2]


def test_a_nested_seed_does_not_split_a_row(record):
    recipes = [{"seed": seed, "teacher": {"seed": seed}, "steps": [{"seed": seed}]} for seed in (0, 1)]
    (row,) = summarise(record(seed=seed, recipe=recipe) for seed, recipe in enumerate(recipes))
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
        assert [row.method for row in summarise(records)] == ["teacher", "none", "rkd", "afd", "kd"]
