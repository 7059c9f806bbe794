"""Statistics on the differences between rows: gains, ranks and groups at equal cost, and mean ranks."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmark.results.bootstrap import Interval, discoveries, intervals, p_values, resampled_means, seed_deviations
from benchmark.results.rows import TEACHER, Row

_BLOCK = 1_000
"""Number of rows or gains that are computed together."""
_EQUAL_COST = 1.05
"""Largest ratio of the MACs of a network to those of the cheapest network in its equal-cost group."""
_RANK_DIGITS = 6
_MOST_LETTERED = 100
"""Largest number of rows of a group that are compared with each other."""
_DIVISIONS = 100
"""Largest number of ways to divide the seeds into halves that are tried."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"

Resampled = Mapping[Row, NDArray[np.float64]]
"""The mAP of rows in every bootstrap resample. Rows without scores of each query are missing."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of mAP with its confidence interval."""

    mean: float
    interval: Interval
    significant: bool
    """Whether the difference is a discovery, if at most 5 % of those among all comparisons at once may be false."""

    @classmethod
    def between(cls, row: Row, other: Row) -> "Gain | None":
        """Return the gain of `row` over `other`; see `gains`. None if it is not known."""
        return gains([(row, other)], resample([row, other]))[0]

    @classmethod
    def from_differences(cls, differences: NDArray[np.float64]) -> Self:
        """Return the gain with these (Q,) per-query differences, at least one.

        Percentile bootstrap over the queries (Efron 1979; Sakai, Evaluating Evaluation Metrics based on the Bootstrap,
        SIGIR 2006, for paired tests of retrieval systems).
        """
        means = resampled_means(differences[None])
        return cls(float(differences.mean()), intervals(means)[0], discoveries(p_values(means))[0])


def resample(rows: Iterable[Row]) -> dict[Row, NDArray[np.float64]]:
    """Return the (RESAMPLES,) mAP of each row in bootstrap resamples of the queries and of the row's seeds.

    A resample has the same queries for all rows, and seeds that are drawn for each row. The average precision of a
    query is its mean over the seeds; what the seeds drawn change is added to the mean over the queries. Rows without
    scores of each query are missing.
    """
    found: dict[Row, NDArray[np.float64]] = {}
    comparable: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        if row.counted is not None and any(row.counted[1]):
            comparable[row.counted].append(row)
    for of_queries in comparable.values():
        for start in range(0, len(of_queries), _BLOCK):
            block = of_queries[start : start + _BLOCK]
            means = resampled_means(np.stack([_counted_precisions(row) for row in block]))
            for row, of_row in zip(block, means, strict=True):
                scores = [record.scores.symmetric.mAP for record in row.records]
                found[row] = of_row + seed_deviations(scores, row.records[0].id)
    return found


def gains(pairs: Sequence[tuple[Row, Row | None]], resampled: Resampled) -> list[Gain | None]:
    """Return the gain of each row over the other row of its pair, paired by query.

    A gain is None if the rows are the same, if the other one is None, if a record lacks its per-query scores, or if the
    rows were not scored on the same queries.

    Args:
        pairs: The rows to compare.
        resampled: From `resample`, for these rows at least.
    """
    found: list[Gain | None] = [None] * len(pairs)
    known = [
        (index, row, other)
        for index, (row, other) in enumerate(pairs)
        if other is not None and row in resampled and _same_queries(row, other)
    ]
    limits: list[Interval] = []
    p: list[float] = []
    for start in range(0, len(known), _BLOCK):
        block = known[start : start + _BLOCK]
        differences = np.stack([resampled[row] - resampled[other] for _, row, other in block])
        limits += intervals(differences)
        p += p_values(differences).tolist()
    significant = discoveries(np.array(p))
    for (index, row, other), interval, discovery in zip(known, limits, significant, strict=True):
        mean = float((_counted_precisions(row) - _counted_precisions(other)).mean())
        found[index] = Gain(mean, interval, discovery)
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
        ranks: The 95 % confidence interval of each row's rank in the group, 1 for the best; empty if it is not known.
        letters: For each row, the letters of the sets of rows that cannot be told apart; empty if they are not known.
        agreement: Kendall's tau between the rankings by two halves of the seeds, averaged over the ways to divide them;
            None if there are no two seeds that all rows have.
    """

    rows: Sequence[Row]
    gains: Sequence[Gain | None]
    ranks: Sequence[tuple[int, int]] = ()
    letters: Sequence[str] = ()
    agreement: float | None = None

    @classmethod
    def of(cls, rows: Sequence[Row], gains: Sequence[Gain | None], resampled: Resampled) -> Self:
        """Return the group of these rows, the best first, with ranks and letters if all can be compared."""
        agreement = _agreement(rows)
        if not all(row in resampled and row.counted == rows[0].counted for row in rows):
            return cls(rows, gains, agreement=agreement)
        means = np.stack([resampled[row] for row in rows])
        ranks = 1 + np.argsort(np.argsort(-means, axis=0), axis=0)
        low, high = np.quantile(ranks, [0.025, 0.975], axis=1, method="nearest").tolist()
        letters = _letters(means) if len(rows) <= _MOST_LETTERED else ()
        return cls(rows, gains, list(zip(low, high, strict=True)), letters, agreement)


def _letters(means: NDArray[np.float64]) -> list[str]:
    """Return the letters of (N, RESAMPLES) systems, the best first: those that share one cannot be told apart.

    A set of systems that cannot be told apart is a longest range of the order by mAP whose first and last do not differ
    significantly, among all pairs of systems.
    """
    count = len(means)
    pairs = list(combinations(range(count), 2))
    p = np.concatenate([p_values(means[index] - means[index + 1 :]) for index in range(count - 1)])
    different = dict(zip(pairs, discoveries(p), strict=True))
    letters = [""] * count
    reached = -1
    sets = 0
    for first in range(count):
        last = next(other for other in range(count - 1, first - 1, -1) if not different.get((first, other)))
        if last > reached:
            for member in range(first, last + 1):
                letters[member] += _LETTERS[sets % len(_LETTERS)]
            reached = last
            sets += 1
    return letters


def _agreement(rows: Sequence[Row]) -> float | None:
    common = sorted(set.intersection(*({record.seed for record in row.records} for row in rows)))
    if len(common) < 2:
        return None
    from scipy.stats import kendalltau  # slow to import

    scores = np.array([[_seed_score(row, seed) for seed in common] for row in rows])
    half = len(common) // 2
    found = []
    for chosen in islice(combinations(range(len(common)), half), _DIVISIONS):
        rest = [seed for seed in range(len(common)) if seed not in chosen]
        found.append(kendalltau(scores[:, list(chosen)].mean(axis=1), scores[:, rest].mean(axis=1)).statistic)
    return None if np.isnan(found).any() else float(np.mean(found))


def _seed_score(row: Row, seed: int) -> float:
    return next(record.scores.symmetric.mAP for record in row.records if record.seed == seed)


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
