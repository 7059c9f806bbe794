"""The outcome of an evaluation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.retrieval._chunks import chunks
from benchmark.retrieval._matching import Neighbours


class PerQueryResults:
    """What all outcomes of an evaluation say of their queries; a base for dataclasses."""

    __slots__ = ()
    positives: Tensor

    @property
    def valid(self) -> Tensor:
        """(Q,) bool: which queries have a correct answer, and count."""
        return self.positives > 0

    @property
    def queries(self) -> int:
        """How many queries there were, those skipped included."""
        return len(self.positives)

    @property
    def skipped(self) -> int:
        """How many of them had no positive left under the protocol and count in no mean."""
        return int((~self.valid).sum())

    def mean(self, values: Tensor) -> float:
        """Over the queries that count, of (Q,) floating-point values."""
        return values[self.valid].mean().item()


@dataclass(frozen=True, slots=True, eq=False)
class Scores(PerQueryResults):
    """Retrieval scores, per query and as fractions from 0 to 1: means over the queries that have a valid positive.

    Everything is on the CPU, in the order of the queries; a value per query is NaN where it was skipped.

    Raises ValueError where the parts do not fit each other, and where no query has a positive.
    """

    recall_at: tuple[int, ...]
    """The K of `recall` and `precision`."""
    positives: Tensor
    """(Q,) int64: how many correct answers the gallery holds under the protocol; 0 where the query was skipped."""
    first_match_rank: Tensor
    """(Q,) int64: rank of the first correct answer, 0 where skipped."""
    average_precision: Tensor
    """(Q,) float64."""
    inverse_negative_penalty: Tensor
    """(Q,) float64."""
    r_precision: Tensor
    """(Q,) float64."""
    average_precision_at_r: Tensor
    """(Q,) float64."""
    precision_at: Tensor
    """(Q, K) float64, a column for each of `recall_at`."""
    neighbours: Neighbours | None = None
    """The top of every ranked list, where that was asked for."""
    rounding_error: float = 0.0
    """How far a product in lower precision than float32 moves the average precision of a query: the mean absolute
    difference over a sample of at most 256 queries."""

    def __post_init__(self) -> None:
        queries = len(self.positives)
        for name in self.per_query():
            values = getattr(self, name)
            shape = (queries, len(self.recall_at)) if name == "precision_at" else (queries,)
            if values.shape != shape or values.device.type != "cpu":
                raise ValueError(f"{name} must be {shape} on the CPU, not {tuple(values.shape)} on {values.device}")
        if not (queries and self.positives.amax() > 0):
            raise ValueError(f"none of {queries} queries has a positive")
        for rows in chunks(queries, 8 * max(1, len(self.recall_at))):
            valid = self.positives[rows] > 0
            if not torch.equal(self.first_match_rank[rows] > 0, valid):
                raise ValueError("first_match_rank must be 0 for the queries without positives, and for them alone")
            for name in self.per_query()[2:]:
                values = getattr(self, name)[rows]
                fraction = ((values >= 0) & (values <= 1)).reshape(len(valid), -1)
                if not (fraction | ~valid[:, None]).all():
                    raise ValueError(f"{name} must lie between 0 and 1")
        if self.neighbours is not None and len(self.neighbours) != queries:
            raise ValueError(f"there are neighbours of {len(self.neighbours)} queries, and {queries} queries")

    @staticmethod
    def per_query() -> tuple[str, ...]:
        """The names of what is known of every query."""
        return (
            "positives",
            "first_match_rank",
            "average_precision",
            "inverse_negative_penalty",
            "r_precision",
            "average_precision_at_r",
            "precision_at",
        )

    @property
    def mAP(self) -> float:
        """Mean average precision."""
        return self.mean(self.average_precision)

    @property
    def mINP(self) -> float:
        """Mean inverse negative penalty."""
        return self.mean(self.inverse_negative_penalty)

    @property
    def mAP_at_R(self) -> float:
        """MAP@R (Musgrave et al., A Metric Learning Reality Check, ECCV 2020)."""
        return self.mean(self.average_precision_at_r)

    @property
    def R_precision(self) -> float:
        """The share of correct answers among the first R, where R is how many there are."""
        return self.mean(self.r_precision)

    @property
    def recall(self) -> dict[int, float]:
        """Recall@K by K: the share of queries with a correct answer among the first K."""
        return {k: self.cmc(k) for k in self.recall_at}

    @property
    def precision(self) -> dict[int, float]:
        """Precision@K by K: the share of correct answers among the first K."""
        return {k: self.mean(self.precision_at[:, i]) for i, k in enumerate(self.recall_at)}

    def cmc(self, k: int) -> float:
        """The share of queries with a correct answer among the first `k`: Recall@K for any K."""
        return self.mean((self.first_match_rank <= k).double())
