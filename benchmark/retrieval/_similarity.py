"""The cosine similarity of queries and gallery."""

import torch
from torch import Tensor

from benchmark.retrieval._chunks import CHUNK_BYTES, chunks
from benchmark.retrieval._product import Precision, empty, product
from benchmark.retrieval.embeddings import Embeddings
from benchmark.utils.precision import full_precision

ROUNDING = 1e-6
"""Cosines no further apart than this are the same number.

The rounding of a float32 product depends on where an entry lies in the matrix: equal vectors were seen to score up to
8e-7 apart at 2048 dimensions. Without this margin, that would decide the order of ties, and so the score of a collapsed
model. It moves the mAP of a trained one by about 3e-6, downwards.
"""

_CONVERTED = 8
"""One of so many parts of a chunk is what a worker converts to float32 at a time."""


class CosineSimilarity:
    """Cosine similarity of queries and gallery, a block at a time, in full float32 unless another precision is given.

    The norms of a large gallery are divided out of the product: a normalised copy would cost as much memory again.

    Args:
        query: Q of them.
        gallery: G of them; the vectors may lie in a mapped file. Not copied.
        precision: Of the product.
    """

    def __init__(self, query: Embeddings, gallery: Embeddings, precision: Precision = "float32") -> None:
        self.query = query
        self.gallery = gallery
        self.precision = precision
        self._unit_queries = _ones(query.scale)
        self._unit: Tensor | None = None
        """The gallery in float32 and of unit length, where that is at hand or cheap."""
        vectors = gallery.vectors
        if vectors.dtype == torch.float32 and _ones(gallery.scale):
            self._unit = vectors
        elif 4 * vectors.numel() <= CHUNK_BYTES:
            self._unit = vectors.float() * gallery.scale[:, None]

    @property
    def symmetric(self) -> bool:
        """Whether, of one list, the score of two images is computed in the same way for both: no factor comes after."""
        return self._unit is not None

    def __call__(self, rows: slice, columns: slice = slice(None)) -> Tensor:
        """(rows, columns) float32 similarities of parts of the two lists, higher for more alike."""
        query = self._queries(rows)
        if self._unit is not None:
            return product(query, self._unit[columns], self.precision)
        vectors, scale = self.gallery.vectors[columns], self.gallery.scale[columns]
        if vectors.dtype == torch.float32:
            return product(query, vectors, self.precision).mul_(scale)
        scores = empty(len(query), len(vectors), vectors.device)
        for part in chunks(len(vectors), _CONVERTED * 4 * vectors.shape[1]):
            scores[:, part] = product(query, vectors[part].float(), self.precision).mul_(scale[part])
        return scores

    def pairs(self, rows: slice, columns: Tensor) -> Tensor:
        """(R, M) float32 similarities of each of R queries with M gallery entries of its own, (R, M) int64."""
        query = self._queries(rows)
        with full_precision(query.device):
            found = torch.bmm(self.gallery.vectors[columns].float(), query[:, :, None]).squeeze(2)
        return found * self.gallery.scale[columns]

    @property
    def query_bytes(self) -> int:
        """What is copied of each query for a product."""
        vectors = self.query.vectors
        copies = int(vectors.dtype != torch.float32) + int(not self._unit_queries)
        return 4 * vectors.shape[1] * copies

    def _queries(self, rows: slice) -> Tensor:
        vectors = self.query.vectors[rows].float()
        return vectors if self._unit_queries else vectors * self.query.scale[rows, None]


def _ones(values: Tensor) -> bool:
    """Whether all are 1; by their bounds, which take no memory to find."""
    least, most = values.aminmax()
    return bool((least == 1) & (most == 1))
