"""How one network does over all queries."""

from dataclasses import dataclass
from typing import Self

from benchmark.retrieval import Scores

BINS = 10


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over the queries that count, and how their average precision is spread."""

    mAP: float
    """A fraction from 0 to 1."""
    recall: dict[int, float]
    """Recall@K by K, fractions from 0 to 1."""
    histogram: tuple[int, ...]
    """How many queries have an average precision in each of `BINS` equal parts of [0, 1]; 1 is in the last."""

    @classmethod
    def of(cls, scores: Scores) -> Self:
        parts = (scores.average_precision[scores.valid] * BINS).long().clamp(max=BINS - 1)
        return cls(scores.mAP, scores.recall, tuple(parts.bincount(minlength=BINS).tolist()))
