"""The bootstrap: intervals, the spread of seeds, p-values and false discoveries."""

import numpy as np
import pytest

from benchmark.results.bootstrap import RESAMPLES, discoveries, intervals, p_values, resampled_means, seed_deviations


def interval(differences):
    return intervals(resampled_means(differences[None]))[0]


def test_interval_agrees_with_the_normal_approximation():
    differences = np.random.default_rng(1).normal(0.02, 0.1, size=4_000)
    found = interval(differences)
    half = 1.96 * differences.std() / np.sqrt(len(differences))
    assert found.low == pytest.approx(differences.mean() - half, abs=3e-4)
    assert found.high == pytest.approx(differences.mean() + half, abs=3e-4)


def test_interval_is_deterministic():
    differences = np.random.default_rng(2).normal(size=50)
    assert interval(differences) == interval(differences)


def test_interval_covers_the_mean_in_nineteen_of_twenty_cases():
    generator = np.random.default_rng(3)
    found = [interval(generator.exponential(size=200) - 1) for _ in range(200)]
    covered = sum(each.low <= 0 <= each.high for each in found)
    assert 178 <= covered <= 199


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_deviations_have_the_standard_error_of_the_mean(seeds):
    scores = np.random.default_rng(seeds).normal(0.7, 0.01, seeds)
    deviations = seed_deviations(scores, "kd")
    assert deviations.shape == (RESAMPLES,)
    assert deviations.mean() == pytest.approx(0, abs=3e-4)
    assert deviations.std() == pytest.approx(scores.std(ddof=1) / np.sqrt(seeds), rel=0.1)


def test_seeds_of_two_systems_are_drawn_independently():
    scores = [0.6, 0.7, 0.65]
    first, second = (seed_deviations(scores, name) for name in ("kd", "rkd"))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    assert np.array_equal(first, seed_deviations(scores, "kd"))


def test_a_single_seed_has_no_deviations():
    assert not seed_deviations([0.6], "kd").any()


def test_p_values():
    queries = np.random.default_rng(4).normal(0, 1, size=(3, 400))
    queries -= queries.mean(axis=1, keepdims=True)
    p = p_values(resampled_means(queries + np.array([[0.0], [0.1], [1.0]])))
    assert p[0] == pytest.approx(1, abs=0.1)
    assert p[1] == pytest.approx(0.046, abs=0.02)  # two standard errors of 0.05
    assert p[2] == pytest.approx(2 / (RESAMPLES + 1))
    assert p_values(np.zeros((1, RESAMPLES))) == [1.0]


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
