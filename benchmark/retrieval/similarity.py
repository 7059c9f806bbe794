"""The cosine similarity of queries and gallery."""

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.precision import full_precision

ROUNDING = 1e-6
"""Cosines no further apart than this are the same number.

The rounding of a float32 product depends on where an entry lies in the matrix: equal vectors were seen to score up to
8e-7 apart at 2048 dimensions. Without this margin, that would decide the order of ties, and so the score of a collapsed
model. It moves the mAP of a trained one by about 3e-6, downwards.
"""


class CosineSimilarity:
    """Cosine similarity of queries and gallery, some rows at a time, in full float32 whatever precision is allowed.

    The gallery's norms are divided out of the product: a normalised copy would cost as much memory as the gallery.
    """

    def __init__(self, query: Tensor, gallery: Tensor) -> None:
        """Take (Q, D) query vectors and (G, D) gallery vectors; float32 ones are not copied."""
        self.query = query
        self.gallery = gallery.float()
        self._scale = torch.linalg.vector_norm(self.gallery, dim=1).clamp_min(1e-12).reciprocal()

    def __call__(self, rows: slice) -> Tensor:
        """The (rows, G) float32 similarities of these rows of the query list, higher for more alike."""
        query = functional.normalize(self.query[rows].float(), dim=1)
        with full_precision(query.device):
            return torch.mm(query, self.gallery.T).mul_(self._scale)
