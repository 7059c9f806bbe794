"""The cosine similarity of one list with itself."""

import torch
from torch import Tensor

from benchmark.retrieval import chunks
from benchmark.retrieval.product import Precision
from benchmark.retrieval.side_by_side import side_by_side, workers_for
from benchmark.retrieval.similarity import CosineSimilarity

_STRIPES = 12
"""Parts of the list. Each is multiplied with itself and with those after it: 13 / 24 of the whole product."""


class MutualSimilarity:
    """Cosine similarity of one list with itself, by little more than half the product, whose results are kept.

    Args:
        vectors: (N, D). Not copied.
        precision: Of the product.
    """

    def __init__(self, vectors: Tensor, precision: Precision = "float32") -> None:
        self.vectors = vectors
        similarity = CosineSimilarity(vectors, vectors, precision)
        step = -(-len(vectors) // _STRIPES)
        self._stripes = [slice(start, min(start + step, len(vectors))) for start in range(0, len(vectors), step)]
        workers = workers_for(vectors.device, precision)
        self._scores = side_by_side(lambda rows: similarity(rows, slice(rows.start, None)), self._stripes, workers)
        """Of each stripe, with itself and all after it."""

    @staticmethod
    def suits(vectors: Tensor) -> bool:
        """Whether half the scores of (N, D) vectors may be kept; and the vectors need no copy for a product."""
        return vectors.dtype == torch.float32 and 4 * len(vectors) ** 2 // 2 <= 4 * chunks.CHUNK_BYTES

    def __call__(self, rows: slice) -> Tensor:
        """(rows, N) float32 similarities, higher for more alike."""
        scores = self.vectors.new_empty(rows.stop - rows.start, len(self.vectors), dtype=torch.float32)
        for stripe, known in zip(self._stripes, self._scores, strict=True):
            first, last = max(rows.start, stripe.start), min(rows.stop, stripe.stop)
            if first < last:
                own = known[first - stripe.start : last - stripe.start]
                scores[first - rows.start : last - rows.start, stripe.start :] = own
            after = max(rows.start, stripe.stop)
            if after < rows.stop:
                columns = slice(after - stripe.start, rows.stop - stripe.start)
                scores[after - rows.start :, stripe] = known[:, columns].T
        return scores
