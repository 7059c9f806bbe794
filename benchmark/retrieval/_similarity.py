"""Cosine similarity of queries and gallery, in full float32."""

import numpy as np
import torch
from torch import Tensor

from benchmark.retrieval import _chunks
from benchmark.retrieval._threads import parallel_map
from benchmark.retrieval.embeddings import Embeddings
from benchmark.utils.precision import full_precision

TIE_TOLERANCE = 1e-6
"""Cosine similarities that differ by no more than this count as equal.

The rounding of a float32 product depends on the position of an entry in the matrix: scores of equal vectors were seen
to differ by up to 8e-7 at 2048 dimensions. Without this tolerance, rounding would break ties, and so decide the score
of a collapsed model. The tolerance lowers the mAP of a trained model by about 3e-6.
"""

_CONVERSIONS_PER_CHUNK = 8
"""A worker converts at most 1/8 of a chunk to float32 at a time."""
_STRIPES = 12
"""Stripes of a list that is compared with itself. Each is multiplied with itself and the later ones: 13/24 of all."""


class CosineSimilarity:
    """Cosine similarity of queries and gallery, one block at a time.

    The norms of a large gallery are divided out of the product, because a normalized copy would double its memory.

    Args:
        query: Queries.
        gallery: Gallery, whose vectors may be in a memory-mapped file. Not copied.
    """

    def __init__(self, query: Embeddings, gallery: Embeddings) -> None:
        self.query = query
        self.gallery = gallery
        self._unit_queries = _all_ones(query.scale)
        self._unit_gallery: Tensor | None = None
        """The gallery in float32 and of unit length, if it is already so or small enough to be copied."""
        vectors = gallery.vectors
        if vectors.dtype == torch.float32 and _all_ones(gallery.scale):
            self._unit_gallery = vectors
        elif 4 * vectors.numel() <= _chunks.CHUNK_BYTES:
            self._unit_gallery = vectors.float() * gallery.scale[:, None]

    @property
    def symmetric(self) -> bool:
        """Whether products are final scores, so that (i, j) and (j, i) of one list are computed in the same way."""
        return self._unit_gallery is not None

    @property
    def query_bytes(self) -> int:
        """Bytes copied per query to compute a product."""
        vectors = self.query.vectors
        copies = int(vectors.dtype != torch.float32) + int(not self._unit_queries)
        return 4 * vectors.shape[1] * copies

    def __call__(self, rows: slice, gallery_part: slice = slice(None)) -> Tensor:
        """Return the similarities of some queries and a part of the gallery, (rows, part) float32."""
        query = self._queries(rows)
        if self._unit_gallery is not None:
            return _product(query, self._unit_gallery[gallery_part])
        vectors, scale = self.gallery.vectors[gallery_part], self.gallery.scale[gallery_part]
        if vectors.dtype == torch.float32:
            return _product(query, vectors).mul_(scale)
        scores = _empty(len(query), len(vectors), vectors.device)
        for part in _chunks.chunks(len(vectors), _CONVERSIONS_PER_CHUNK * 4 * vectors.shape[1]):
            scores[:, part] = _product(query, vectors[part].float()).mul_(scale[part])
        return scores

    def pairs(self, rows: slice, gallery_index: Tensor) -> Tensor:
        """Return the similarities of each of R queries and its own M gallery entries.

        Args:
            rows: R queries.
            gallery_index: (R, M) int64 positions in the gallery.

        Returns:
            (R, M) float32.
        """
        query = self._queries(rows)
        with full_precision(query.device):
            products = torch.bmm(self.gallery.vectors[gallery_index].float(), query[:, :, None]).squeeze(2)
        return products * self.gallery.scale[gallery_index]

    def _queries(self, rows: slice) -> Tensor:
        vectors = self.query.vectors[rows].float()
        return vectors if self._unit_queries else vectors * self.query.scale[rows, None]


class MutualSimilarity:
    """Cosine similarity of one list with itself, computed once for both orders of a pair and kept in memory.

    Args:
        similarity: Symmetric similarity of the list, N vectors, with itself.
        workers: Number of stripes multiplied at the same time.
    """

    def __init__(self, similarity: CosineSimilarity, workers: int) -> None:
        vectors = similarity.gallery.vectors
        self.vectors = vectors
        step = -(-len(vectors) // _STRIPES)
        self._stripes = [slice(start, min(start + step, len(vectors))) for start in range(0, len(vectors), step)]
        self._scores = parallel_map(lambda rows: similarity(rows, slice(rows.start, None)), self._stripes, workers)
        """Scores of each stripe with itself and all later stripes."""

    @staticmethod
    def is_suitable(similarity: CosineSimilarity) -> bool:
        """Return whether both lists are the same, and the scores kept in memory take at most two and a half chunks."""
        if similarity.query.vectors is not similarity.gallery.vectors or not similarity.symmetric:
            return False
        return 13 * 4 * len(similarity.gallery) ** 2 // 24 <= 5 * _chunks.CHUNK_BYTES // 2

    def __call__(self, rows: slice) -> Tensor:
        """Return the (rows, N) float32 similarities of some rows of the list."""
        scores = _empty(rows.stop - rows.start, len(self.vectors), self.vectors.device)
        for stripe, products in zip(self._stripes, self._scores, strict=True):
            first, last = max(rows.start, stripe.start), min(rows.stop, stripe.stop)
            if first < last:
                own = products[first - stripe.start : last - stripe.start]
                scores[first - rows.start : last - rows.start, stripe.start :] = own
            after = max(rows.start, stripe.stop)
            if after < rows.stop:
                columns = slice(after - stripe.start, rows.stop - stripe.start)
                _copy(products[:, columns].T, scores[after - rows.start :, stripe])
        return scores


def _product(queries: Tensor, gallery: Tensor) -> Tensor:
    """Return the (Q, G) inner products of (Q, D) and (G, D) float32 vectors."""
    with full_precision(queries.device):
        return torch.mm(queries, gallery.T, out=_empty(len(queries), len(gallery), queries.device))


def _empty(rows: int, columns: int, device: torch.device) -> Tensor:
    """Return an uninitialized (rows, columns) float32 tensor."""
    # NumPy requests huge pages for large arrays. With small pages, allocating 40 MB was seen to take a fifth of the
    # time of the product of 512 dimensions that fills them.
    if device.type == "cpu":
        return torch.from_numpy(np.empty((rows, columns), dtype=np.float32))
    return torch.empty(rows, columns, device=device)


def _copy(source: Tensor, target: Tensor) -> None:
    """Copy into `target`. On the CPU, NumPy copies a transposed tensor in 3/4 of the time of torch on one thread."""
    if source.device.type == "cpu":
        np.copyto(target.numpy(), source.numpy())
    else:
        target.copy_(source)


def _all_ones(values: Tensor) -> bool:
    """Return whether all values are 1. The range is computed without allocating a mask."""
    least, most = values.aminmax()
    return bool((least == 1) & (most == 1))
