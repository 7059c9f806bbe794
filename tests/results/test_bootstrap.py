import numpy as np
import pytest

from benchmark.results.comparison import Interval, paired_bootstrap


def test_the_interval_of_normal_differences_is_that_of_theory():
    differences = np.random.default_rng(1).normal(0.02, 0.1, size=4_000)
    interval = paired_bootstrap(differences)
    half = 1.96 * differences.std() / np.sqrt(len(differences))
    assert interval.low == pytest.approx(differences.mean() - half, abs=3e-4)
    assert interval.high == pytest.approx(differences.mean() + half, abs=3e-4)


def test_the_same_differences_give_the_same_interval():
    differences = np.random.default_rng(2).normal(size=50)
    assert paired_bootstrap(differences) == paired_bootstrap(differences)


def test_it_covers_the_mean_in_nineteen_of_twenty_cases():
    generator = np.random.default_rng(3)
    intervals = [paired_bootstrap(generator.exponential(size=200) - 1) for _ in range(200)]
    covered = sum(interval.low <= 0 <= interval.high for interval in intervals)
    assert 178 <= covered <= 199


def test_zero_is_excluded_on_either_side():
    assert [Interval(*ends).excludes_zero for ends in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1), (0.0, 0.1))] == [
        True,
        True,
        False,
        False,
    ]
