"""Inference on differences of mAP: intervals, the spread of seeds, p-values, false discoveries, ranks and letters."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from benchmark.results.inference import (
    RESAMPLES,
    Differences,
    SeedSpread,
    SeedVariance,
    discoveries,
    letters,
    rank_intervals,
)
from benchmark.results.rows import group_records

KNOWN = SeedVariance(0.0, math.inf, pooled=True)


def test_without_seeds_it_is_the_paired_t_test():
    by_query = np.random.default_rng(1).normal(0.02, 0.1, size=(3, 50))
    found = Differences.of(by_query)
    for row, interval, p in zip(by_query, found.intervals(), found.p_values(), strict=True):
        expected = stats.ttest_1samp(row, 0)
        assert p == pytest.approx(expected.pvalue)
        assert (interval.low, interval.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_with_seeds_alone_it_is_welchs_t_test():
    generator = np.random.default_rng(2)
    first, second = generator.normal(0.7, 0.01, 3), generator.normal(0.68, 0.03, 5)
    by_query = np.full((1, 100), first.mean() - second.mean())
    variances = [SeedVariance(x.var(ddof=1) / len(x), len(x) - 1, pooled=False) for x in (first, second)]
    found = Differences.of(by_query, [tuple(variances)])
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert found.p_values()[0] == pytest.approx(expected.pvalue)
    assert found.intervals()[0].low == pytest.approx(expected.confidence_interval().low)


def test_with_a_pooled_variance_it_is_students_t_test():
    generator = np.random.default_rng(3)
    first, second = generator.normal(0.7, 0.02, 3), generator.normal(0.68, 0.02, 5)
    squares = sum(x.var(ddof=1) * (len(x) - 1) for x in (first, second))
    by_query = np.full((1, 100), first.mean() - second.mean())
    variances = [SeedVariance(squares / 6 / len(x), 6, pooled=True) for x in (first, second)]
    expected = stats.ttest_ind(first, second)
    assert Differences.of(by_query, [tuple(variances)]).p_values()[0] == pytest.approx(expected.pvalue)


def test_equal_systems_do_not_differ():
    found = Differences.of(np.zeros((1, 40)), [(KNOWN, KNOWN)])
    assert found.p_values()[0] == 1
    assert (found.intervals()[0].low, found.intervals()[0].high) == (0, 0)


def test_a_difference_that_is_the_same_for_every_query_is_certain():
    assert Differences.of(np.full((1, 40), 0.01)).p_values()[0] == 0


class TestSpread:
    def rows(self, record, **scores):
        return group_records(record(m, seed=s, mAP=v) for m, values in scores.items() for s, v in enumerate(values))

    def test_is_pooled_over_the_rows_with_several_seeds(self, record):
        rows = self.rows(record, kd=(0.70, 0.72, 0.71), rkd=(0.60, 0.64), none=(0.5,))
        spread = SeedSpread(rows)
        pooled = (2 * 0.01**2 + 1 * np.var([0.60, 0.64], ddof=1)) / 3
        kd, rkd, none = (spread.of(next(row for row in rows if row.method == m)) for m in ("kd", "rkd", "none"))
        assert (kd.of_mean, kd.freedom) == (pytest.approx(pooled / 3), 3)
        assert (none.of_mean, none.freedom) == (pytest.approx(pooled), 3)
        assert (rkd.of_mean, rkd.freedom) == (pytest.approx(np.var([0.60, 0.64], ddof=1) / 2), 1), "its own is larger"

    def test_is_unknown_if_every_row_has_one_seed(self, record):
        rows = self.rows(record, kd=(0.7,), none=(0.6,))
        assert SeedSpread(rows).of(rows[0]) == KNOWN


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_boards_without_true_differences_rarely_have_discoveries(record, with_queries, seeds):
    """Twelve rows with three seeds set the spread; twelve others, with fewer perhaps, are compared with one of them."""
    generator = np.random.default_rng(seeds)
    queries = generator.uniform(0.3, 0.6, 120)
    boards = 40
    wrong = covered = comparisons = 0
    shifts = generator.normal(0, 0.01, size=(boards, 24, 3))
    for of_board in shifts:
        counts = [3] * 12 + [seeds] * 12
        rows = group_records(
            record(f"m{index}", seed=seed, mAP=0.5 + shift)
            for index, (count, of_row) in enumerate(zip(counts, of_board, strict=True))
            for seed, shift in enumerate(of_row[:count])
        )
        spread = SeedSpread(rows)
        by_query = {row: queries + row.mAP.mean + generator.normal(0, 0.02, len(queries)) for row in rows}
        reference = next(row for row in rows if row.method == "m0")
        others = [row for row in rows if row.method in {f"m{index}" for index in range(12, 24)}]
        differences = np.stack([by_query[row] - by_query[reference] for row in others])
        found = Differences.of(differences, [(spread.of(row), spread.of(reference)) for row in others])
        wrong += any(discoveries(found.p_values()))
        covered += sum(interval.low <= 0 <= interval.high for interval in found.intervals())
        comparisons += len(others)
    assert wrong <= 5  # of 40 boards; 2 are expected
    assert covered / comparisons >= 0.93


def benjamini_hochberg(p, level=0.05):
    """The largest k such that the k-th smallest p-value is at most k / n of the level; those k are discoveries."""
    ordered = sorted(p)
    k = max((k for k, value in enumerate(ordered, start=1) if value <= level * k / len(p)), default=0)
    return [k > 0 and value <= ordered[k - 1] for value in p]


def test_discoveries_are_those_of_benjamini_and_hochberg():
    generator = np.random.default_rng(5)
    for size in (1, 2, 10, 200):
        p = generator.uniform(0, 1, size) ** 3
        assert discoveries(p) == benjamini_hochberg(p)
    assert discoveries(np.array([])) == []


def test_one_large_effect_among_many_comparisons_is_found():
    by_query = np.random.default_rng(6).normal(0, 0.1, size=(500, 400))
    by_query -= by_query.mean(axis=1, keepdims=True)
    by_query[0] += 0.1
    assert discoveries(Differences.of(by_query).p_values()) == [True, *[False] * 499]


class TestRanks:
    def test_separate_systems_have_certain_ranks(self):
        by_query = np.random.default_rng(7).normal(0, 0.01, (3, 200)) + np.array([[0.3], [0.2], [0.1]])
        assert rank_intervals(by_query, [KNOWN] * 3, ["a", "b", "c"]) == [(1, 1), (2, 2), (3, 3)]

    def test_equal_systems_share_their_ranks(self):
        by_query = np.tile(np.random.default_rng(8).uniform(size=200), (2, 1))
        assert rank_intervals(by_query, [KNOWN] * 2, ["a", "b"]) == [(1, 2)] * 2

    def test_the_spread_of_seeds_widens_them(self):
        by_query = np.random.default_rng(9).normal(0, 0.001, (2, 200)) + np.array([[0.51], [0.5]])
        assert rank_intervals(by_query, [KNOWN] * 2, ["a", "b"]) == [(1, 1), (2, 2)]
        assert rank_intervals(by_query, [SeedVariance(0.01**2, 4, pooled=False)] * 2, ["a", "b"]) == [(1, 2), (1, 2)]

    def test_deviations_of_the_seeds_follow_the_t_distribution(self):
        by_query = np.zeros((2, 10))
        by_query[1] = 0.02
        above = sum(np.random.default_rng(10).standard_t(4, RESAMPLES) * 0.01 > 0.02) / RESAMPLES
        assert above == pytest.approx(stats.t.sf(2, 4), abs=0.02)
        assert rank_intervals(by_query, [SeedVariance(0.01**2, 4, pooled=False), KNOWN], ["a", "b"]) == [(1, 2), (1, 2)]


class TestLetters:
    @pytest.mark.parametrize(
        ("count", "different", "expected"),
        [
            (3, [], ["a", "a", "a"]),
            (3, [(0, 1), (0, 2), (1, 2)], ["a", "b", "c"]),
            (3, [(0, 2)], ["a", "ab", "b"]),
            (3, [(0, 1)], ["a", "b", "ab"]),  # the last one varies more than the others
            (1, [], ["a"]),
        ],
    )
    def test_examples(self, count, different, expected):
        assert letters(count, different) == expected

    def test_systems_share_a_letter_if_and_only_if_they_are_not_different(self):
        generator = np.random.default_rng(11)
        for _ in range(40):
            count = int(generator.integers(2, 10))
            different = {pair for pair in combinations(range(count), 2) if generator.uniform() < 0.5}
            found = letters(count, different)
            for pair in combinations(range(count), 2):
                assert bool(set(found[pair[0]]) & set(found[pair[1]])) == (pair not in different)

    def test_many_separate_systems_have_distinct_letters(self):
        found = letters(60, combinations(range(60), 2))
        assert len(set(found)) == 60
