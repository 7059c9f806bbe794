"""Statistical inference on differences of mAP: uncertainty by queries and seeds, p-values, and false discoveries."""

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmark.results.rows import Row

RESAMPLES = 2_000
LEVEL = 0.05
"""Largest expected share of false discoveries among the differences that are called significant."""
_CHUNK = 200
"""Number of bootstrap resamples drawn at a time, which bounds the memory."""
_KEPT = 2**22
"""Largest number of queries in all resamples together (8 bytes each) for which the resamples are kept in memory."""
_ROUNDING = 1e-12
"""Differences of mAP up to this size are due to the rounding of sums."""

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SeedVariance:
    """The variance of a row's mAP over seeds."""

    of_mean: float
    """Variance of the mean over the seeds of the row."""
    freedom: float
    """Degrees of freedom of the estimate."""
    pooled: bool
    """Whether the estimate is that of the leaderboard, not of the row alone."""


class SeedSpread:
    """How much the mAP of the rows of a leaderboard varies with the seed.

    Three seeds say little about the spread of a row. The variance that all rows with several seeds have in common is
    pooled over them, and a row has the pooled variance or, if it is larger, its own. This also covers rows with one
    seed. Without any row with several seeds, the spread is unknown and counts as zero.

    Args:
        rows: The rows of the leaderboard.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        repeated = [row for row in rows if row.mAP.std is not None]
        self.freedom = sum(len(row.records) - 1 for row in repeated)
        squares = sum((row.mAP.std or 0.0) ** 2 * (len(row.records) - 1) for row in repeated)
        self.pooled = squares / self.freedom if repeated else 0.0

    def of(self, row: Row) -> SeedVariance:
        """Return the variance of a row's mean over its seeds."""
        seeds = len(row.records)
        own = 0.0 if row.mAP.std is None else row.mAP.std**2
        if own > self.pooled:
            return SeedVariance(own / seeds, seeds - 1, pooled=False)
        return SeedVariance(self.pooled / seeds, self.freedom or math.inf, pooled=True)


@dataclass(frozen=True, slots=True)
class Differences:
    """Mean differences between pairs of systems, with the uncertainty of each.

    Attributes:
        means: (N,) mean differences.
        errors: (N,) standard errors.
        freedom: (N,) degrees of freedom of the standard errors (Welch-Satterthwaite).
    """

    means: Vector
    errors: Vector
    freedom: Vector

    @classmethod
    def of(cls, by_query: Vector, seeds: Sequence[tuple[SeedVariance, SeedVariance]] | None = None) -> Self:
        """Estimate mean differences.

        Args:
            by_query: (N, Q) differences of average precision, paired by query.
            seeds: For each pair, the variances by seeds of its two systems; None for the uncertainty by queries alone.
        """
        queries = by_query.shape[1]
        parts = [by_query.var(axis=1, ddof=1) / queries if queries > 1 else np.zeros(len(by_query))]
        freedoms = [np.full(len(by_query), max(1.0, queries - 1.0))]
        if seeds:
            of_mean, freedom = (
                np.array([[getattr(variance, name) for variance in pair] for pair in seeds])
                for name in ("of_mean", "freedom")
            )
            pooled = np.array([[variance.pooled for variance in pair] for pair in seeds])
            # Two pooled variances are one estimate. The others are independent of each other.
            parts += [(of_mean * pooled).sum(axis=1), *(of_mean * ~pooled).T]
            freedoms += [np.where(pooled, freedom, math.inf).min(axis=1), *freedom.T]
        variance = np.sum(parts, axis=0)
        squares = np.sum([part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True)], axis=0)
        freedom = np.divide(variance**2, squares, out=np.ones_like(variance), where=squares > 0)
        means = by_query.mean(axis=1)
        means[np.abs(means) < _ROUNDING] = 0.0
        return cls(means, np.sqrt(variance), freedom)

    def intervals(self) -> list[Interval]:
        """Return the 95 % confidence interval of each difference."""
        from scipy.stats import t  # slow to import

        half = t.ppf(0.975, self.freedom) * self.errors
        return list(map(Interval, (self.means - half).tolist(), (self.means + half).tolist()))

    def p_values(self) -> Vector:
        """Return the two-sided p-value that each difference is zero."""
        from scipy.stats import t  # slow to import

        ratio = np.divide(self.means, self.errors, out=np.zeros_like(self.means), where=self.errors > _ROUNDING)
        p: Vector = 2 * t.sf(np.abs(ratio), self.freedom)
        certain = (self.errors <= _ROUNDING) & (self.means != 0)
        return np.where(certain, 0.0, p)


def discoveries(p: Vector) -> list[bool]:
    """Return which of several p-values are significant, if at most `LEVEL` of these may be false discoveries.

    Benjamini, Hochberg: Controlling the False Discovery Rate. Journal of the Royal Statistical Society B, 1995.
    """
    from scipy.stats import false_discovery_control  # slow to import

    return (false_discovery_control(p) <= LEVEL).tolist() if p.size else []


def rank_intervals(by_query: Vector, seeds: Sequence[SeedVariance], names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the 95 % confidence interval of the rank of each system, 1 for the highest mean.

    The systems are ranked in bootstrap resamples of the queries, the same for all of them. Every mean has a deviation
    by seeds added, which is drawn from a t distribution. Equal means share the ranks between them.

    Args:
        by_query: (N, Q) average precisions.
        seeds: The variance of each system by seeds.
        names: A text for each system, on which its random numbers depend.
    """
    from scipy.stats import rankdata  # slow to import

    means = _resampled_means(by_query)
    for mean, variance, name in zip(means, seeds, names, strict=True):
        if variance.of_mean > 0:
            generator = np.random.default_rng(zlib.crc32(name.encode()))
            freedom = variance.freedom
            drawn = (
                generator.standard_t(freedom, RESAMPLES) if math.isfinite(freedom) else generator.normal(size=RESAMPLES)
            )
            mean += np.sqrt(variance.of_mean) * drawn
    descending = -means.round(12)
    best, worst = (rankdata(descending, method=method, axis=0) for method in ("min", "max"))
    low = np.quantile(best, 0.025, axis=1, method="nearest")
    high = np.quantile(worst, 0.975, axis=1, method="nearest")
    return list(zip(low.astype(int).tolist(), high.astype(int).tolist(), strict=True))


def letters(count: int, different: Iterable[tuple[int, int]]) -> list[str]:
    """Return letters for `count` systems, so that two share a letter if and only if they are not different.

    Piepho: An algorithm for a letter-based representation of all-pairwise comparisons. Journal of Computational and
    Graphical Statistics, 2004.

    Args:
        count: Number of systems, the best first.
        different: Pairs of systems that differ significantly.
    """
    sets = [frozenset(range(count))]
    for first, second in different:
        for members in [members for members in sets if first in members and second in members]:
            sets.remove(members)
            for part in (members - {first}, members - {second}):
                if not any(part <= other for other in sets):
                    sets = [other for other in sets if not other <= part] + [part]
    result = [""] * count
    for number, members in enumerate(sorted(sets, key=sorted)):
        for member in members:
            result[member] += _letter(number)
    return result


def _letter(number: int) -> str:
    """Return a, b, ..., z, A, B, ..., Z, and numbers after that."""
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return alphabet[number] if number < len(alphabet) else f"({number + 1})"


def _resampled_means(by_query: Vector) -> Vector:
    """Return the (N, RESAMPLES) means of (N, Q) values in bootstrap resamples of the queries, always the same ones."""
    queries = by_query.shape[1]
    counts = _kept_resamples if queries * RESAMPLES <= _KEPT else _resamples
    return np.concatenate([by_query @ chunk.T for chunk in counts(queries)], axis=1) / queries


def _resamples(queries: int) -> Iterator[Vector]:
    """Yield chunks of resamples, each (_CHUNK, Q): how often each query was drawn."""
    generator = np.random.default_rng(0)
    first = queries * np.arange(_CHUNK)[:, None]
    for _ in range(RESAMPLES // _CHUNK):
        drawn = generator.integers(queries, size=(_CHUNK, queries)) + first
        counts = np.bincount(drawn.ravel(), minlength=_CHUNK * queries).reshape(_CHUNK, queries)
        yield counts.astype(np.float64)


@lru_cache(maxsize=1)
def _kept_resamples(queries: int) -> tuple[Vector, ...]:
    return tuple(_resamples(queries))
