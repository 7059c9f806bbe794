"""By how much one row of a leaderboard is better than another."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmark.results.bootstrap import Interval, paired_bootstrap
from benchmark.results.summary import Row


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
