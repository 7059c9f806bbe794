"""Gains with confidence intervals, groups of equal cost, and mean ranks."""

import numpy as np
import pytest

from benchmark.results.comparison import Gain, Interval, equal_cost, mean_ranks, paired_bootstrap
from benchmark.results.rows import group_records

QUERIES = 1500


@pytest.fixture
def scored(record, with_queries):
    """`scored("kd", 0.6, seed=1)` makes up a record with random average precisions around a mean."""

    def make(method, mean, seed=0, **options):
        values = np.random.default_rng(seed).uniform(mean - 0.1, mean + 0.1, QUERIES).round(5)
        return with_queries(record(method, seed=seed, **options), [None, *values.tolist()])

    return make


def test_interval_agrees_with_the_normal_approximation():
    differences = np.random.default_rng(1).normal(0.02, 0.1, size=4_000)
    interval = paired_bootstrap(differences)
    half = 1.96 * differences.std() / np.sqrt(len(differences))
    assert interval.low == pytest.approx(differences.mean() - half, abs=3e-4)
    assert interval.high == pytest.approx(differences.mean() + half, abs=3e-4)


def test_interval_is_deterministic():
    differences = np.random.default_rng(2).normal(size=50)
    assert paired_bootstrap(differences) == paired_bootstrap(differences)


def test_interval_covers_the_mean_in_nineteen_of_twenty_cases():
    generator = np.random.default_rng(3)
    intervals = [paired_bootstrap(generator.exponential(size=200) - 1) for _ in range(200)]
    covered = sum(interval.low <= 0 <= interval.high for interval in intervals)
    assert 178 <= covered <= 199


@pytest.mark.parametrize(
    ("low", "high", "excluded"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)]
)
def test_interval_excludes_zero(low, high, excluded):
    assert Interval(low, high).excludes_zero is excluded


def test_gain_is_the_mean_difference_over_queries_and_seeds(scored):
    records = [scored("kd", 0.62, seed) for seed in range(3)] + [scored("none", 0.6, seed + 5) for seed in range(2)]
    none, kd = group_records(records)
    gain = Gain.between(kd, none)
    assert gain.mean == pytest.approx(kd.mAP.mean - none.mAP.mean, abs=1e-9)
    assert gain.interval.low < gain.mean < gain.interval.high
    ours, theirs = (
        np.mean([record.scores.average_precision[1:] for record in row.records], axis=0) for row in (kd, none)
    )
    error = (ours - theirs).std() / np.sqrt(QUERIES)
    assert gain.interval.high - gain.interval.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_no_gain_without_the_same_queries(scored, record, edit):
    none, kd = group_records([scored("none", 0.6), scored("kd", 0.6)])
    (without,) = group_records([record("rkd")])
    (elsewhere,) = group_records([edit(scored("kd", 0.6), {"data.fingerprint": "0" * 64})])
    assert Gain.between(kd, none) is not None
    pairs = [(none, none), (without, none), (kd, without), (elsewhere, none)]
    assert [Gain.between(*pair) for pair in pairs] == [None] * 4


def groups_of(records):
    return [[row.method for row in group] for group in equal_cost(group_records(records))]


def test_students_within_five_percent_of_the_cheapest_form_a_group(record):
    records = [
        record("none", role="teacher", macs=10.1e6),
        record("none", macs=10e6, mAP=0.6),
        record("kd", macs=10.5e6, mAP=0.7),
        record("rkd", macs=10.6e6, mAP=0.9),
        record("pkt", macs=9e6, mAP=0.5),
        record("at", macs=8.9e6, mAP=0.4),
    ]
    assert groups_of(records) == [["pkt", "at"], ["kd", "none"]]


def test_cost_of_a_group_does_not_creep(record):
    # Each is within 5 % of the next one, but the last is not within 5 % of the first.
    records = [record(method, macs=macs) for method, macs in (("none", 10e6), ("kd", 10.4e6), ("rkd", 10.8e6))]
    assert groups_of(records) == [["kd", "none"]]


def test_rows_on_other_data_are_in_other_groups(record):
    other = record().data.model_dump() | {"broken": 4}
    records = [record("none"), record("kd"), record("rkd", data=other), record("pkt", data=other)]
    assert sorted(map(sorted, groups_of(records))) == [["kd", "none"], ["pkt", "rkd"]]


def boards(record, **scores):
    """`boards(record, glyphs={"kd": 0.6})` returns the rows of each dataset."""
    return [
        group_records(
            [record("none", role="teacher", dataset=dataset, mAP=0.99)]
            + [record(method, dataset=dataset, mAP=mAP) for method, mAP in methods.items()]
        )
        for dataset, methods in scores.items()
    ]


@pytest.mark.parametrize(
    ("scores", "ranks"),
    [
        pytest.param(
            {"glyphs": {"none": 0.5, "kd": 0.7, "rkd": 0.6}, "veri776": {"none": 0.4, "kd": 0.3, "rkd": 0.6}},
            {"none": 2.5, "kd": 2.0, "rkd": 1.5},
            id="mean over datasets",
        ),
        pytest.param(
            {"glyphs": {"none": 0.5, "kd": 0.7, "pkt": 0.6}, "veri776": {"none": 0.4, "kd": 0.6, "at": 0.5}},
            {"none": 2.0, "kd": 1.0},
            id="only methods on every dataset",
        ),
        pytest.param({"glyphs": {"none": 0.6, "kd": 0.6, "rkd": 0.5}}, {"kd": 1.5, "none": 1.5, "rkd": 3}, id="ties"),
        pytest.param({}, {}, id="no datasets"),
    ],
)
def test_mean_ranks(record, scores, ranks):
    assert mean_ranks(boards(record, **scores)) == ranks


def test_best_of_several_rows_is_ranked(record):
    rows = group_records([record("kd", mAP=0.5), record("kd", mAP=0.7, variant="longer"), record("none", mAP=0.6)])
    assert mean_ranks([rows]) == {"kd": 1, "none": 2}


def test_rows_on_other_data_are_not_ranked(record):
    other = record().data.model_dump() | {"broken": 4}
    rows = group_records(
        [record("none", mAP=0.6), record("kd", mAP=0.5), record("kd", mAP=0.9, data=other, variant="b")]
    )
    assert mean_ranks([rows]) == {"none": 1, "kd": 2}
