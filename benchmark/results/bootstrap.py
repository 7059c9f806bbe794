"""Bootstrap over the queries and the seeds: confidence intervals, p-values and false discoveries."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
LEVEL = 0.05
"""Largest share of false discoveries among the differences that are called significant."""
_CHUNK = 200
"""Number of bootstrap resamples drawn at a time, which bounds the memory."""
_KEPT = 2**22
"""Resamples of so many queries in total are drawn once and kept (8 bytes each); larger ones are drawn every time."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


def resampled_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of bootstrap resamples of the queries.

    The random draws depend only on the number of queries: all systems are resampled with the same queries, and the same
    records give the same page.

    Args:
        values: (N, Q) values of N systems, one per query.

    Returns:
        (N, RESAMPLES) mean of every system in every resample.
    """
    counts = _kept_resamples if values.shape[1] * RESAMPLES <= _KEPT else _resamples
    chunks = [values @ chunk.T for chunk in counts(values.shape[1])]
    return np.concatenate(chunks, axis=1) / values.shape[1]


def seed_deviations(scores: Sequence[float], name: str) -> NDArray[np.float64]:
    """Return how far the mean over bootstrap resamples of the seeds is from the mean over the seeds.

    A bootstrap of n values underestimates the variance of their mean by the factor (n - 1) / n, which matters for a few
    seeds. The deviations are scaled to make up for it.

    Args:
        scores: The score of each seed. The deviations of a single seed are zero, since its spread is unknown.
        name: The random draws depend on this text, so that the seeds of two systems are drawn independently.

    Returns:
        (RESAMPLES,) deviations.
    """
    seeds = len(scores)
    if seeds == 1:
        return np.zeros(RESAMPLES)
    deviations = np.array(scores) - np.mean(scores)
    drawn = np.random.default_rng(zlib.crc32(name.encode())).integers(seeds, size=(RESAMPLES, seeds))
    return deviations[drawn].mean(axis=1) * np.sqrt(seeds / (seeds - 1))


def intervals(means: NDArray[np.float64]) -> list[Interval]:
    """Return the confidence interval of each of (N, RESAMPLES) resampled mean differences."""
    low, high = np.quantile(_rounded(means), [0.025, 0.975], axis=1) + 0.0  # no negative zeros
    return list(map(Interval, low.tolist(), high.tolist()))


def p_values(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the two-sided p-value that a mean difference is zero, for each of (N, RESAMPLES) resampled ones."""
    rounded = _rounded(means)
    tail = np.minimum((rounded <= 0).sum(axis=1), (rounded >= 0).sum(axis=1))
    result: NDArray[np.float64] = np.minimum(1.0, 2 * (tail + 1) / (RESAMPLES + 1))
    return result


def discoveries(p: NDArray[np.float64]) -> list[bool]:
    """Return which of several p-values are significant, if at most `LEVEL` of these may be false discoveries.

    Benjamini, Hochberg: Controlling the False Discovery Rate. Journal of the Royal Statistical Society B, 1995.
    """
    from scipy.stats import false_discovery_control  # slow to import

    return (false_discovery_control(p) <= LEVEL).tolist() if p.size else []


def _rounded(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round, so that two systems with the same scores do not differ by the rounding of their sums."""
    return means.round(12)


def _resamples(queries: int) -> Iterator[NDArray[np.float64]]:
    """Yield chunks of resamples, each (_CHUNK, Q): how often each query was drawn."""
    generator = np.random.default_rng(0)
    first = queries * np.arange(_CHUNK)[:, None]
    for _ in range(RESAMPLES // _CHUNK):
        drawn = generator.integers(queries, size=(_CHUNK, queries)) + first
        counts = np.bincount(drawn.ravel(), minlength=_CHUNK * queries).reshape(_CHUNK, queries)
        yield counts.astype(np.float64)


@lru_cache(maxsize=1)
def _kept_resamples(queries: int) -> tuple[NDArray[np.float64], ...]:
    return tuple(_resamples(queries))
