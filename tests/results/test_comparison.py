"""Gains with confidence intervals, groups of equal cost, and mean ranks."""

import numpy as np
import pytest

from benchmark.results import comparison
from benchmark.results.comparison import CostGroup, Gain, compared, equal_cost, gains, mean_ranks
from benchmark.results.inference import SeedSpread
from benchmark.results.rows import group_records

QUERIES = 1500


@pytest.fixture
def scored(record, with_queries):
    """`scored("kd", 0.6, seed=1)` makes up a record with random average precisions around a mean."""

    def make(method, mean, seed=0, **options):
        values = np.random.default_rng(seed).uniform(mean - 0.1, mean + 0.1, QUERIES).round(5)
        return with_queries(record(method, seed=seed, **options), [None, *values.tolist()])

    return make


def test_gain_is_the_mean_difference_over_queries_and_seeds(scored):
    records = [scored("kd", 0.62, seed) for seed in range(3)] + [scored("none", 0.6, seed + 5) for seed in range(2)]
    none, kd = group_records(records)
    gain = Gain.between(kd, none)
    assert gain.mean == pytest.approx(kd.mAP.mean - none.mAP.mean, abs=1e-9)
    assert gain.interval.low < gain.mean < gain.interval.high
    ours, theirs = (
        np.mean([record.scores.average_precision[1:] for record in row.records], axis=0) for row in (kd, none)
    )
    of_queries = (ours - theirs).var(ddof=1) / QUERIES
    assert gain.interval.high - gain.interval.low > 2 * 1.96 * np.sqrt(of_queries)


def test_a_gain_and_its_reverse_are_one_comparison(scored):
    none, kd = group_records([scored("none", 0.6), scored("kd", 0.601, seed=1)])
    found = gains([(kd, none), (none, kd)], SeedSpread([none, kd]))
    gain, loss = found[kd, none], found[none, kd]
    assert (loss.mean, loss.interval.low, loss.interval.high) == (-gain.mean, -gain.interval.high, -gain.interval.low)
    assert found[kd, none] == gains([(kd, none)], SeedSpread([none, kd]))[kd, none]


def test_gains_do_not_depend_on_the_size_of_the_blocks(scored, monkeypatch):
    none, *others = group_records([scored("none", 0.6), *(scored(f"m{i}", 0.6, seed=i + 1) for i in range(5))])
    pairs, spread = [(row, none) for row in others], SeedSpread(others)
    expected = gains(pairs, spread)
    monkeypatch.setattr(comparison, "_BLOCK", 2 * QUERIES)
    assert gains(pairs, spread) == expected


def test_chance_gains_of_many_rows_are_not_significant(scored):
    none, *others = group_records([scored("none", 0.6), *(scored(f"m{i}", 0.6, seed=i + 1) for i in range(100))])
    pairs = [(row, others[10]) for row in others if row is not others[10]]  # one that is better than most by chance
    found = gains(pairs, SeedSpread([none, *others])).values()
    by_interval = sum(gain.interval.low > 0 or gain.interval.high < 0 for gain in found)
    assert sum(gain.significant for gain in found) == 0 < by_interval


def test_no_gain_without_the_same_queries(scored, record, edit):
    none, kd = group_records([scored("none", 0.6), scored("kd", 0.6)])
    (without,) = group_records([record("rkd")])
    (elsewhere,) = group_records([edit(scored("kd", 0.6), {"data.fingerprint": "0" * 64})])
    assert Gain.between(kd, none) is not None
    pairs = [(none, none), (without, none), (kd, without), (elsewhere, none)]
    assert [Gain.between(*pair) for pair in pairs] == [None] * 4


def group_of(records) -> CostGroup:
    (rows,) = equal_cost(group_records(records))
    spread = SeedSpread(rows)
    return CostGroup.of(rows, gains(compared(rows), spread), spread)


def test_ranks_and_letters(record, with_queries):
    means = {"a": 0.7, "b": 0.65, "c": 0.647, "d": 0.644, "e": 0.5}
    noise = np.random.default_rng(0).normal(0, 0.05, (len(means), QUERIES))  # standard error of a difference: 0.0018
    noise -= noise.mean(axis=1, keepdims=True)
    records = [
        with_queries(record(method), (mean + of_method).tolist())
        for (method, mean), of_method in zip(means.items(), noise, strict=True)
    ]
    group = group_of(records)
    assert [row.method for row in group.rows] == list(means)
    assert group.letters == ["a", "b", "bc", "c", "d"]
    assert group.ranks[0] == (1, 1) and group.ranks[4] == (5, 5)
    assert all(2 <= low < high <= 4 for low, high in group.ranks[1:4])


def test_rows_without_scores_of_queries_are_not_ranked(scored, record):
    group = group_of([scored("kd", 0.6), record("none", mAP=0.5)])
    assert (group.ranks, group.letters) == ((), ())


@pytest.mark.parametrize(
    ("scores", "agreement"),
    [
        ({"a": (0.3, 0.3), "b": (0.2, 0.2), "c": (0.1, 0.1)}, 1.0),
        ({"a": (0.3, 0.1), "b": (0.2, 0.2), "c": (0.1, 0.3)}, -1.0),
        # Seed 0 against the mean of the others: 1; seed 1: -1; seed 2: 1.
        ({"a": (0.35, 0.1, 0.4), "b": (0.2, 0.2, 0.2)}, 1 / 3),
        ({"a": (0.3,), "b": (0.2,)}, None),
        ({"a": (0.3, 0.2), "b": (0.2,)}, None),
    ],
)
def test_agreement_of_rankings_by_halves_of_the_seeds(record, scores, agreement):
    records = [record(m, seed=s, mAP=value) for m, values in scores.items() for s, value in enumerate(values)]
    assert group_of(records).agreement == (None if agreement is None else pytest.approx(agreement))


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
