"""Statistics on the differences between rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmark.results.rows import TEACHER, Row

RESAMPLES = 2_000
_CHUNK = 200
"""Resamples at a time, which bounds the memory."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(differences: NDArray[np.float64]) -> Interval:
    """The interval of the mean of (Q,) differences, each between two systems on one query.

    Percentile bootstrap over the queries (Efron 1979; Sakai, Evaluating Evaluation Metrics based on the Bootstrap,
    SIGIR 2006, for paired tests of retrieval systems). The draws are the same in every call, so that the same records
    give the same page.
    """
    generator = np.random.default_rng(0)
    queries = len(differences)
    means = [
        differences[generator.integers(queries, size=(_CHUNK, queries))].mean(axis=1)
        for _ in range(RESAMPLES // _CHUNK)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(low), float(high))


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of mAP, and its interval."""

    mean: float
    interval: Interval

    @classmethod
    def of(cls, row: Row, other: Row) -> Self | None:
        """What `row` gains over `other`, paired by query, each query's average precision a mean over the seeds.

        None where a record lacks the scores of its queries, the rows did not see the same ones, or they are one row.
        """
        differences = query_differences(row, other)
        return None if differences is None else cls.mean_of(differences)

    @classmethod
    def mean_of(cls, differences: NDArray[np.float64]) -> Self:
        """The mean of one difference or more, each of a query."""
        return cls(float(differences.mean()), paired_bootstrap(differences))


def query_differences(row: Row, other: Row) -> NDArray[np.float64] | None:
    """(Q,) differences of average precision, `row` minus `other`, of the queries that count; None as for a `Gain`."""
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
    """(Q,) means over the seeds; NaN for queries that do not count."""
    lists = [record.scores.average_precision for record in row.records]
    known = [values for values in lists if values is not None]
    if len(known) < len(lists) or len({len(values) for values in known}) != 1:
        return None
    return np.array(known, dtype=np.float64).mean(axis=0)


def same_data(row: Row, other: Row) -> bool:
    """Whether the rows were trained on and searched the same images."""
    data, others = row.records[0].data, other.records[0].data
    return (data.fingerprint, data.splits, data.broken) == (others.fingerprint, others.splits, others.broken)


_DIGITS = 6


def mean_ranks(boards: Sequence[Sequence[Row]]) -> dict[str, float]:
    """The mean over boards of a method's place by mean mAP, 1 for the best; equals share the mean of their places.

    Only methods that are on every board are ranked, and only among each other, so that all places are out of as many.
    Of a method with several rows on a board, its best on the data of the board's first student counts.
    """
    best = [_best(rows) for rows in boards]
    methods = sorted(set.intersection(*map(set, best))) if best else []
    places = {method: [_place(scores, methods, method) for scores in best] for method in methods}
    return {method: round(sum(of_method) / len(best), _DIGITS) for method, of_method in places.items()}


def _best(rows: Sequence[Row]) -> dict[str, float]:
    scores: dict[str, float] = {}
    students = [row for row in rows if row.method != TEACHER]
    for row in students:
        if same_data(row, students[0]):
            scores[row.method] = max(row.mAP.mean, scores.get(row.method, 0.0))
    return scores


def _place(scores: dict[str, float], methods: Sequence[str], method: str) -> float:
    above = sum(scores[other] > scores[method] for other in methods)
    equal = sum(scores[other] == scores[method] for other in methods)
    return above + (1 + equal) / 2
