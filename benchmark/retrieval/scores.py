"""The outcome of an evaluation."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Retrieval scores as fractions from 0 to 1: means over the queries that have a valid positive."""

    mAP: float
    """Mean average precision."""
    mINP: float
    """Mean inverse negative penalty."""
    recall: dict[int, float]
    """Recall@K by K: the share of queries with a correct answer among the first K."""
    queries: int
    """How many queries there were, those skipped included."""
    skipped: int
    """How many of them had no positive left under the protocol and count in no mean."""
    average_precision: Tensor
    """(queries,) float64 on the CPU, NaN where skipped."""
    first_hit: Tensor
    """(queries,) int64 on the CPU: rank of the first correct answer, 0 where skipped."""
