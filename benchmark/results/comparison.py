"""Statistics on the differences between rows: gains with confidence intervals, equal-cost groups and mean ranks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmark.results.rows import TEACHER, Row

_RESAMPLES = 2_000
_CHUNK = 200
"""Number of bootstrap resamples drawn at a time, which bounds the memory."""
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


def paired_bootstrap(differences: NDArray[np.float64]) -> Interval:
    """Return the confidence interval of the mean of paired differences.

    Percentile bootstrap over the queries (Efron 1979; Sakai, Evaluating Evaluation Metrics based on the Bootstrap,
    SIGIR 2006, for paired tests of retrieval systems). The random draws are the same in every call, so that the same
    records give the same page.

    Args:
        differences: (Q,) differences between two systems, one per query.
    """
    generator = np.random.default_rng(0)
    queries = len(differences)
    means = [
        differences[generator.integers(queries, size=(_CHUNK, queries))].mean(axis=1)
        for _ in range(_RESAMPLES // _CHUNK)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(low), float(high))


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of mAP with its confidence interval."""

    mean: float
    interval: Interval

    @classmethod
    def between(cls, row: Row, other: Row) -> Self | None:
        """Return the gain of `row` over `other`, paired by query, with average precisions averaged over the seeds.

        None if `row` is `other`, a record lacks its per-query scores, or the rows were not scored on the same queries.
        """
        differences = query_differences(row, other)
        return None if differences is None else cls.from_differences(differences)

    @classmethod
    def from_differences(cls, differences: NDArray[np.float64]) -> Self:
        """Return the gain with these (Q,) per-query differences, at least one."""
        return cls(float(differences.mean()), paired_bootstrap(differences))


def query_differences(row: Row, other: Row) -> NDArray[np.float64] | None:
    """Return the (Q,) differences of average precision, `row` minus `other`, of the queries with a correct match.

    None under the conditions of `Gain.between`.
    """
    if row is other:
        return None
    ours, theirs = _per_query(row), _per_query(other)
    if ours is None or theirs is None or len(ours) != len(theirs) or not same_data(row, other):
        return None
    counted = ~np.isnan(ours)
    if not counted.any() or not np.array_equal(counted, ~np.isnan(theirs)):
        return None
    return (ours - theirs)[counted]


def _per_query(row: Row) -> NDArray[np.float64] | None:
    """Return the (Q,) average precisions averaged over the seeds; NaN for queries without a correct match."""
    lists = [record.scores.average_precision for record in row.records]
    known = [values for values in lists if values is not None]
    if len(known) < len(lists) or len({len(values) for values in known}) != 1:
        return None
    return np.array(known, dtype=np.float64).mean(axis=0)


def same_data(row: Row, other: Row) -> bool:
    """Return whether both rows were trained and evaluated on the same images."""
    data, others = row.records[0].data, other.records[0].data
    return (data.fingerprint, data.splits, data.broken) == (others.fingerprint, others.splits, others.broken)


@dataclass(frozen=True, slots=True, eq=False)
class CostGroup:
    """Students on the same data whose MACs lie within 5 % of each other.

    Attributes:
        rows: The rows, the best mAP first.
        gains: The gain of each row over the best; None for the best itself and for unknown gains.
    """

    rows: Sequence[Row]
    gains: Sequence[Gain | None]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        """Return the group of these rows, given in any order."""
        best, *others = sorted(rows, key=lambda row: (-row.mAP.mean, row.method))
        return cls([best, *others], [None, *(Gain.between(row, best) for row in others)])


def cost_groups(rows: Iterable[Row]) -> list[CostGroup]:
    """Group students of equal cost: all groups of two or more rows, the cheapest group first."""
    groups: list[list[Row]] = []
    for row in sorted((row for row in rows if row.method != TEACHER), key=lambda row: row.macs.mean):
        on_same_data = (group for group in groups if same_data(row, group[0]))
        group = next((group for group in on_same_data if row.macs.mean <= _EQUAL_COST * group[0].macs.mean), None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return [CostGroup.of(group) for group in groups if len(group) > 1]


def mean_ranks(boards: Sequence[Sequence[Row]]) -> dict[str, float]:
    """Return each method's rank by mean mAP (1 is the best), averaged over the boards; ties share their mean rank.

    Only methods that are on every board are ranked, among each other. Of a method with several rows on a board, the
    best one on the data of the board's first student counts.
    """
    scores = [_best_scores(rows) for rows in boards]
    methods = sorted(set.intersection(*map(set, scores))) if scores else []
    ranks = {method: [_rank(of_board, methods, method) for of_board in scores] for method in methods}
    return {method: round(sum(of_method) / len(scores), _RANK_DIGITS) for method, of_method in ranks.items()}


def _best_scores(rows: Sequence[Row]) -> dict[str, float]:
    scores: dict[str, float] = {}
    students = [row for row in rows if row.method != TEACHER]
    for row in students:
        if same_data(row, students[0]):
            scores[row.method] = max(row.mAP.mean, scores.get(row.method, 0.0))
    return scores


def _rank(scores: dict[str, float], methods: Sequence[str], method: str) -> float:
    better = sum(scores[other] > scores[method] for other in methods)
    equal = sum(scores[other] == scores[method] for other in methods)
    return better + (1 + equal) / 2
