"""Results of an evaluation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.retrieval import _chunks


@dataclass(frozen=True, slots=True, eq=False)
class Neighbors:
    """The K most similar gallery entries of each of Q queries, most similar first, ignored entries included.

    Raises:
        ValueError: The shapes differ, similarities do not descend, or a relevance is not -1, 0 or 1.
    """

    gallery_index: Tensor
    """(Q, K) int64 positions in the gallery, or in its list of tracks where tracks are ranked."""
    similarity: Tensor
    """(Q, K) float32 cosine similarity; the negative distance after re-ranking."""
    relevance: Tensor
    """(Q, K) int8: 1 for a correct match, 0 for a negative, -1 for an entry that the protocol ignores."""

    def __post_init__(self) -> None:
        shapes = [tuple(part.shape) for part in (self.gallery_index, self.similarity, self.relevance)]
        if len(set(shapes)) > 1 or self.gallery_index.ndim != 2:
            raise ValueError(f"gallery_index, similarity and relevance must all be (Q, K), not {shapes}")
        if (self.similarity.diff(dim=1) > 0).any():
            raise ValueError("similarity must descend along every row")
        if not torch.isin(self.relevance, self.relevance.new_tensor([-1, 0, 1])).all():
            raise ValueError("relevance must be -1, 0 or 1")

    def __len__(self) -> int:
        return len(self.gallery_index)


class PerQueryResults:
    """Base of dataclasses that hold one result per query."""

    __slots__ = ()
    positives: Tensor

    @property
    def valid(self) -> Tensor:
        """(Q,) bool: whether the query has a correct match under the protocol. All means are over valid queries."""
        return self.positives > 0

    @property
    def queries(self) -> int:
        """Number of queries, skipped ones included."""
        return len(self.positives)

    @property
    def skipped(self) -> int:
        """Number of queries without a correct match under the protocol."""
        return int((~self.valid).sum())

    def mean(self, values: Tensor) -> float:
        """Return the mean of (Q,) floating-point values over the valid queries."""
        return values[self.valid].mean().item()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Scores(PerQueryResults):
    """Retrieval scores per query, and their means over the valid queries, as fractions from 0 to 1.

    All tensors are on the CPU, in the order of the queries. Floating-point values of skipped queries are NaN.

    Raises:
        ValueError: Shapes or values are inconsistent, or no query has a correct match.
    """

    recall_at: tuple[int, ...]
    """Every K of `recall` and `precision`."""
    positives: Tensor
    """(Q,) int64: number of correct matches in the gallery; 0 for skipped queries."""
    first_match_rank: Tensor
    """(Q,) int64: rank of the first correct match, counted from 1; 0 for skipped queries."""
    average_precision: Tensor
    """(Q,) float64."""
    inverse_negative_penalty: Tensor
    """(Q,) float64."""
    r_precision: Tensor
    """(Q,) float64."""
    average_precision_at_r: Tensor
    """(Q,) float64."""
    precision_at: Tensor
    """(Q, len(recall_at)) float64, one column per K."""
    neighbors: Neighbors | None = None
    """The first entries of every ranking, where requested."""

    def __post_init__(self) -> None:
        queries = len(self.positives)
        for name in self.per_query():
            values = getattr(self, name)
            shape = (queries, len(self.recall_at)) if name == "precision_at" else (queries,)
            if values.shape != shape or values.device.type != "cpu":
                raise ValueError(f"{name} must be {shape} on the CPU, not {tuple(values.shape)} on {values.device}")
        if not (queries and self.positives.amax() > 0):
            raise ValueError(f"none of {queries} queries has a correct match")
        for rows in _chunks.chunks(queries, 8 * max(1, len(self.recall_at))):
            valid = self.positives[rows] > 0
            if not torch.equal(self.first_match_rank[rows] > 0, valid):
                raise ValueError("first_match_rank must be 0 for queries without correct matches, and only for them")
            for name in self.per_query()[2:]:
                values = getattr(self, name)[rows]
                fraction = ((values >= 0) & (values <= 1)).reshape(len(valid), -1)
                if not (fraction | ~valid[:, None]).all():
                    raise ValueError(f"{name} must be between 0 and 1")
        if self.neighbors is not None and len(self.neighbors) != queries:
            raise ValueError(f"neighbors has {len(self.neighbors)} rows, but there are {queries} queries")

    def __repr__(self) -> str:
        """Return the means, without the values of every query."""
        means = {"mAP": self.mAP, **{f"R@{k}": value for k, value in self.recall.items()}}
        shown = ", ".join(f"{name}={value:.4f}" for name, value in means.items())
        return f"Scores({shown}, queries={self.queries}, skipped={self.skipped})"

    @staticmethod
    def per_query() -> tuple[str, ...]:
        """Return the names of the fields that hold one value or row per query."""
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
        """Fraction of correct matches in the first R ranks, where R is the query's number of correct matches."""
        return self.mean(self.r_precision)

    @property
    def recall(self) -> dict[int, float]:
        """Recall@K by K: the fraction of queries with a correct match in the first K ranks."""
        return {k: self.cmc(k) for k in self.recall_at}

    @property
    def precision(self) -> dict[int, float]:
        """Precision@K by K: the fraction of correct matches in the first K ranks."""
        return {k: self.mean(self.precision_at[:, i]) for i, k in enumerate(self.recall_at)}

    def cmc(self, k: int) -> float:
        """Return Recall@K for any K: one value of the cumulative matching characteristic (CMC) curve."""
        return self.mean((self.first_match_rank <= k).double())
