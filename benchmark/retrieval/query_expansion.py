"""Query expansion: asking again with what the first search found."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.precision import full_precision
from benchmark.retrieval.chunks import chunks
from benchmark.retrieval.two_lists import require_comparable


@dataclass(frozen=True, slots=True)
class QueryExpansion:
    """Average query expansion: a query becomes the mean of itself and of its nearest gallery images.

    All as unit vectors. The query counts with weight 1, a gallery image of cosine c with max(c, 0)^alpha: as much as
    the query where alpha is 0, and the less the further away it is where alpha is larger.

    Sources: Chum, Philbin, Sivic, Isard, Zisserman, "Total Recall: Automatic Query Expansion with a Generative Feature
    Model for Object Retrieval", ICCV 2007; with weights: Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with
    No Human Annotation", TPAMI 2019.

    Raises ValueError, with the name of the setting, for one that is out of range.
    """

    k: int = 10
    """How many nearest gallery images are added; all, where there are fewer."""
    alpha: float = 0.0
    """The power of the cosine in their weights, at least 0. At 0 all weigh 1, those of negative cosine included."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")
        if not 0 <= self.alpha < math.inf:
            raise ValueError(f"alpha must be finite and at least 0, not {self.alpha}")

    @torch.no_grad()
    def expand(self, query: Tensor, gallery: Tensor, itself: Tensor | None = None) -> Tensor:
        """The queries to search the gallery with instead: (Q, D) float32 unit vectors on the device of the queries.

        Where queries and gallery are one list (leave-one-out), a query finds itself first, and would count twice unless
        `itself` says where. Which of two different images of the same cosine is the k-th nearest is left to rounding.

        Takes the memory of the queries in float32 again, and of the gallery where that is in another type.

        Args:
            query: (Q, D) floating point. Need not be normalised.
            gallery: (G, D) floating point. Need not be normalised.
            itself: (Q,) int64: which gallery image each query is, where it is one and not to be its own neighbour.

        Raises:
            ValueError: Shapes, types or devices do not fit.
        """
        require_comparable(query, gallery)
        gallery = gallery.float()
        scale = torch.linalg.vector_norm(gallery, dim=1).clamp_min(1e-12).reciprocal()
        count = min(self.k, len(gallery) - (itself is not None))
        expanded = torch.empty(query.shape, device=query.device)
        for rows in chunks(len(query), 4 * (len(gallery) + count * query.shape[1])):
            unit = functional.normalize(query[rows].float(), dim=1)
            with full_precision(query.device):
                cosines = torch.mm(unit, gallery.T).mul_(scale)
                if itself is not None:
                    cosines.scatter_(1, itself[rows, None], -torch.inf)
                nearest = cosines.topk(count, dim=1)
                weights = nearest.values.clamp_min(0).pow(self.alpha) if self.alpha else 1.0
                weights = weights * scale[nearest.indices]
                found = torch.bmm(weights[:, None], gallery[nearest.indices]).squeeze(1)
            expanded[rows] = functional.normalize(unit + found, dim=1)
        return expanded
