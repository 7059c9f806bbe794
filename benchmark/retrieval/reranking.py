"""Settings of re-ranking with k-reciprocal neighbors, and of query expansion."""

# The computations import torch and SciPy, which the settings of a dataset or a recipe do not need.

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.retrieval._reranking import RerankedScores


@dataclass(frozen=True, slots=True)
class KReciprocal:
    """k-reciprocal re-ranking: gallery images that share neighbors with the query move up.

    Every query and gallery image is encoded by its k-reciprocal neighbors: the images among its `k1` nearest that also
    have it among theirs, extended by the neighbors of those with which most are shared. Images are compared by the
    Jaccard distance of their codes, mixed with the original distance.

    Source: Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017, as
    implemented in fast-reid and torchreid (squared distances, divided by the largest of each row).

    Raises:
        ValueError: A setting is out of range.
    """

    k1: int = 20
    """Number of nearest neighbors that may be reciprocal, at least 1; all images if there are fewer."""
    k2: int = 6
    """Number of nearest images, itself included, over which a code is averaged, at least 1; 1 disables averaging."""
    weight: float = 0.3
    """Weight of the original distance, from 0 to 1 (lambda in the paper)."""

    def __post_init__(self) -> None:
        for name in ("k1", "k2"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must be from 0 to 1, not {self.weight}")

    def similarity(self, query: "Tensor", gallery: "Tensor") -> "RerankedScores":
        """Encode all images, and return a callable that computes the scores of some queries at a time.

        Among equally near images, the first in the list counts as nearer, queries before gallery. Every image is its
        own nearest neighbor. Images with equal vectors share the mean of their codes, so that they tie in any order.

        Distances are computed in float32 on the device of the vectors, codes on the CPU. Memory: twice the size of the
        vectors, plus about 200 MB at 20,000 images. The codes grow linearly with the number of images.

        Args:
            query: (Q, D) floating point. Need not be normalized.
            gallery: (G, D) floating point. Must not contain the query images, which would be their own neighbors twice.

        Returns:
            A callable that maps a slice of the queries to (rows, G) float32 scores on the device of the vectors: the
            negative re-ranked distance, from -1 to 0.

        Raises:
            ValueError: Shapes, types or devices do not match.
        """
        from benchmark.retrieval._reranking import rerank

        return rerank(query, gallery, self)


@dataclass(frozen=True, slots=True)
class QueryExpansion:
    """Average query expansion: replaces a query by the mean of itself and its nearest gallery images, as unit vectors.

    The query has weight 1 and a gallery image with cosine similarity c has weight max(c, 0)^alpha.

    Sources: Chum, Philbin, Sivic, Isard, Zisserman, "Total Recall: Automatic Query Expansion with a Generative Feature
    Model for Object Retrieval", ICCV 2007; with weights: Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with
    No Human Annotation", TPAMI 2019.

    Raises:
        ValueError: A setting is out of range.
    """

    k: int = 10
    """Number of nearest gallery images that are added, at least 1; all if there are fewer."""
    alpha: float = 0.0
    """Exponent of the cosine similarity in the weights, at least 0. At 0 every weight is 1, for any similarity."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha must be finite and at least 0, not {self.alpha}")

    def expand(self, query: "Tensor", gallery: "Tensor", positions: "Tensor | None" = None) -> "Tensor":
        """Return the expanded queries.

        If several gallery images have the same similarity, rounding decides which is the k-th nearest.

        Memory: the queries in float32, and the gallery in float32 if it has another type.

        Args:
            query: (Q, D) floating point. Need not be normalized.
            gallery: (G, D) floating point. Need not be normalized.
            positions: (Q,) int64 positions of the queries in the gallery, which are left out of the search
                (leave-one-out). If None, a query that is in the gallery finds itself and counts twice.

        Returns:
            (Q, D) float32 unit vectors on the device of the queries.

        Raises:
            ValueError: Shapes, types or devices do not match.
        """
        from benchmark.retrieval._reranking import expand

        return expand(query, gallery, self, positions)
