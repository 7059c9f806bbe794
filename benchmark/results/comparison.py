"""Statistics on the differences between rows: gains with confidence intervals, equal-cost groups and mean ranks."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmark.results.rows import TEACHER, Row

_RESAMPLES = 2_000
_CHUNK = 200
"""Number of bootstrap resamples drawn at a time, which bounds the memory."""
_KEPT = 2**22
"""Resamples of so many queries in total are drawn once and kept (8 bytes each); larger ones are drawn every time."""
_BLOCK = 1_000
"""Number of gains that are computed together."""
_EQUAL_COST = 1.05
"""Largest ratio of the MACs of a network to those of the cheapest network in its equal-cost group."""
_RANK_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def resampled_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of bootstrap resamples of the queries.

    The random draws depend only on the number of queries: all systems are resampled with the same queries, and the same
    records give the same page.

    Args:
        values: (N, Q) values of N systems, one per query.

    Returns:
        (N, R) mean of every system in every resample.
    """
    counts = _kept_resamples if values.shape[1] * _RESAMPLES <= _KEPT else _resamples
    chunks = [values @ chunk.T for chunk in counts(values.shape[1])]
    return np.concatenate(chunks, axis=1) / values.shape[1]


def _resamples(queries: int) -> Iterator[NDArray[np.float64]]:
    """Yield chunks of resamples, each (_CHUNK, Q): how often each query was drawn."""
    generator = np.random.default_rng(0)
    first = queries * np.arange(_CHUNK)[:, None]
    for _ in range(_RESAMPLES // _CHUNK):
        drawn = generator.integers(queries, size=(_CHUNK, queries)) + first
        counts = np.bincount(drawn.ravel(), minlength=_CHUNK * queries).reshape(_CHUNK, queries)
        yield counts.astype(np.float64)


@lru_cache(maxsize=1)
def _kept_resamples(queries: int) -> tuple[NDArray[np.float64], ...]:
    return tuple(_resamples(queries))


def _intervals(means: NDArray[np.float64]) -> list[Interval]:
    """Return the confidence interval of each of (N, R) resampled mean differences."""
    # Rounded, so that two rows with the same scores do not differ by the rounding of their sums.
    low, high = np.quantile(means.round(12), [0.025, 0.975], axis=1) + 0.0  # no negative zeros
    return list(map(Interval, low.tolist(), high.tolist()))


def paired_bootstrap(differences: NDArray[np.float64]) -> Interval:
    """Return the confidence interval of the mean of paired differences.

    Percentile bootstrap over the queries (Efron 1979; Sakai, Evaluating Evaluation Metrics based on the Bootstrap,
    SIGIR 2006, for paired tests of retrieval systems).

    Args:
        differences: (Q,) differences between two systems, one per query.
    """
    return _intervals(resampled_means(differences[None]))[0]


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of mAP with its confidence interval."""

    mean: float
    interval: Interval

    @classmethod
    def between(cls, row: Row, other: Row) -> "Gain | None":
        """Return the gain of `row` over `other`, paired by query, with average precisions averaged over the seeds.

        None if `row` is `other`, a record lacks its per-query scores, or the rows were not scored on the same queries.
        """
        return gains([(row, other)])[0]

    @classmethod
    def from_differences(cls, differences: NDArray[np.float64]) -> Self:
        """Return the gain with these (Q,) per-query differences, at least one."""
        return cls(float(differences.mean()), paired_bootstrap(differences))


def gains(pairs: Sequence[tuple[Row, Row | None]]) -> list[Gain | None]:
    """Return `Gain.between` for each pair of a row and another one; None where the other one is None.

    Many gains take a fraction of the time of as many calls: the mean difference in a resample is the difference of two
    means, so every row is resampled once, whatever it is compared with.
    """
    found: list[Gain | None] = [None] * len(pairs)
    comparable: dict[object, list[tuple[int, Row, Row]]] = defaultdict(list)
    for index, (row, other) in enumerate(pairs):
        if other is not None and _same_queries(row, other):
            comparable[row.counted].append((index, row, other))
    for of_queries in comparable.values():
        for start in range(0, len(of_queries), _BLOCK):
            block = of_queries[start : start + _BLOCK]
            rows = dict.fromkeys(row for _, first, second in block for row in (first, second))
            place = {row: number for number, row in enumerate(rows)}
            values = np.stack([_counted_precisions(row) for row in place])
            means = resampled_means(values)
            ours, theirs = [place[first] for _, first, _ in block], [place[second] for _, _, second in block]
            intervals = _intervals(means[ours] - means[theirs])
            for (index, *_), mine, its, interval in zip(block, ours, theirs, intervals, strict=True):
                found[index] = Gain(float((values[mine] - values[its]).mean()), interval)
    return found


def query_differences(row: Row, other: Row) -> NDArray[np.float64] | None:
    """Return the (Q,) differences of average precision, `row` minus `other`, of the queries with a correct match.

    None under the conditions of `Gain.between`.
    """
    return _counted_precisions(row) - _counted_precisions(other) if _same_queries(row, other) else None


def _same_queries(row: Row, other: Row) -> bool:
    """Return whether two rows have per-query scores of the same queries, at least one of which counts."""
    if row is other or row.counted is None or row.counted != other.counted or not same_data(row, other):
        return False
    return any(row.counted[1])


def _counted_precisions(row: Row) -> NDArray[np.float64]:
    values = row.per_query
    assert values is not None
    return values[~np.isnan(values)]


def same_data(row: Row, other: Row) -> bool:
    """Return whether both rows were trained and evaluated on the same images."""
    return row.images == other.images


@dataclass(frozen=True, slots=True, eq=False)
class CostGroup:
    """Students on the same data whose MACs lie within 5 % of each other.

    Attributes:
        rows: The rows, the best mAP first.
        gains: The gain of each row over the best; None for the best itself and for unknown gains.
    """

    rows: Sequence[Row]
    gains: Sequence[Gain | None]


def equal_cost(rows: Iterable[Row]) -> list[list[Row]]:
    """Group students of equal cost, for `CostGroup`: two or more rows each, the cheapest group first."""
    groups: list[list[Row]] = []
    latest: dict[object, list[Row]] = {}  # the most expensive group so far, by the data
    for row in sorted((row for row in rows if row.method != TEACHER), key=lambda row: row.macs.mean):
        group = latest.get(row.images)
        if group is not None and row.macs.mean <= _EQUAL_COST * group[0].macs.mean:
            group.append(row)
        else:
            latest[row.images] = [row]
            groups.append(latest[row.images])
    return [sorted(group, key=lambda row: (-row.mAP.mean, row.method)) for group in groups if len(group) > 1]


def mean_ranks(boards: Sequence[Sequence[Row]]) -> dict[str, float]:
    """Return each method's rank by mean mAP (1 is the best), averaged over the boards; ties share their mean rank.

    Only methods that are on every board are ranked, among each other. Of a method with several rows on a board, the
    best one on the data of the board's first student counts.
    """
    scores = [_best_scores(rows) for rows in boards]
    methods = sorted(set.intersection(*map(set, scores))) if scores else []
    ranks = [_ranks({method: of_board[method] for method in methods}) for of_board in scores]
    return {
        method: round(sum(of_board[method] for of_board in ranks) / len(scores), _RANK_DIGITS) for method in methods
    }


def _best_scores(rows: Sequence[Row]) -> dict[str, float]:
    scores: dict[str, float] = {}
    students = [row for row in rows if row.method != TEACHER]
    for row in students:
        if same_data(row, students[0]):
            scores[row.method] = max(row.mAP.mean, scores.get(row.method, 0.0))
    return scores


def _ranks(scores: dict[str, float]) -> dict[str, float]:
    ascending = sorted(scores.values())
    ranks = {}
    for method, score in scores.items():
        better = len(ascending) - bisect_right(ascending, score)
        equal = bisect_right(ascending, score) - bisect_left(ascending, score)
        ranks[method] = better + (1 + equal) / 2
    return ranks
