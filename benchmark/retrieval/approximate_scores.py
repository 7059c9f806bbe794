"""The outcome of an approximate evaluation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.retrieval.judged_queries import JudgedQueries


@dataclass(frozen=True, slots=True, eq=False)
class ApproximateScores(JudgedQueries):
    """Retrieval scores of the first `k` entries that an approximate index returned, and how far off they are.

    Per query and as fractions from 0 to 1: means over the queries that have a valid positive. A positive that was not
    returned counts as never found. So the rank of the last one is not known, and there is no mINP.

    Everything is on the CPU, in the order of the queries. As text it always says that, and how, it is approximate.

    Raises ValueError where the parts do not fit each other, and where no query has a positive.
    """

    index: str
    """Of faiss's index factory."""
    k: int
    """How many gallery entries were searched for per query, those that the protocol ignores included."""
    recall_at: tuple[int, ...]
    """The K of `recall`."""
    positives: Tensor
    """(Q,) int64: how many correct answers the gallery holds under the protocol; 0 where the query was skipped."""
    first_hit: Tensor
    """(Q,) int64: rank of the first correct answer; 0 where none was found or the query was skipped."""
    average_precision: Tensor
    """(Q,) float64, divided by all positives of the query; NaN where it was skipped."""
    sampled: int
    """On how many queries the two figures below were measured."""
    neighbour_recall: float
    """The share of the 10 most similar gallery entries that the index returned among its first 10."""
    mAP_error: float
    """Mean average precision minus the exact one; above 0 where mainly wrong answers are left out."""

    def __post_init__(self) -> None:
        queries = len(self.positives)
        for name in ("positives", "first_hit", "average_precision"):
            values = getattr(self, name)
            if values.shape != (queries,) or values.device.type != "cpu":
                raise ValueError(
                    f"{name} must be ({queries},) on the CPU, not {tuple(values.shape)} on {values.device}"
                )
        if not self.valid.any():
            raise ValueError(f"none of {queries} queries has a positive")
        precisions = self.average_precision[self.valid]
        if not ((precisions >= 0) & (precisions <= 1)).all():
            raise ValueError("average_precision must lie between 0 and 1")
        if not torch.equal(self.first_hit[self.valid] > 0, precisions > 0) or self.first_hit[~self.valid].any():
            raise ValueError("first_hit must be 0 where no correct answer was found, and there alone")

    def __str__(self) -> str:
        recalls = ", ".join(f"Recall@{k} {value:.4f}" for k, value in self.recall.items())
        return (
            f"mAP {self.mAP:.4f}, {recalls}; approximate, by the first {self.k} of {self.index}: neighbour recall "
            f"{self.neighbour_recall:.4f}, mAP error {self.mAP_error:+.4f} on {self.sampled} queries"
        )

    @property
    def mAP(self) -> float:
        """Mean average precision."""
        return self.mean(self.average_precision)

    @property
    def recall(self) -> dict[int, float]:
        """Recall@K by K: the share of queries with a correct answer among the first K; too low for a K above `k`."""
        return {k: self.cmc(k) for k in self.recall_at}

    def cmc(self, k: int) -> float:
        """The share of queries with a correct answer among the first `k`: Recall@K for any K."""
        return self.mean(((self.first_hit > 0) & (self.first_hit <= k)).double())
