"""The cosine similarity of one list with itself."""

import numpy as np
from torch import Tensor

from benchmark.retrieval import chunks
from benchmark.retrieval.product import empty
from benchmark.retrieval.side_by_side import side_by_side
from benchmark.retrieval.similarity import CosineSimilarity

_STRIPES = 12
"""Parts of the list. Each is multiplied with itself and with those after it: 13 / 24 of the whole product."""


class MutualSimilarity:
    """Cosine similarity of one list with itself, by little more than half the product, whose results are kept.

    Args:
        similarity: Of the list, (N, D) vectors, with itself; symmetric.
        workers: How many parts are multiplied at a time.
    """

    def __init__(self, similarity: CosineSimilarity, workers: int) -> None:
        vectors = similarity.gallery.vectors
        self.vectors = vectors
        step = -(-len(vectors) // _STRIPES)
        self._stripes = [slice(start, min(start + step, len(vectors))) for start in range(0, len(vectors), step)]
        self._scores = side_by_side(lambda rows: similarity(rows, slice(rows.start, None)), self._stripes, workers)
        """Of each stripe, with itself and all after it."""

    @staticmethod
    def suits(similarity: CosineSimilarity) -> bool:
        """Whether the two lists are one, and the scores that are kept take two and a half chunks at most."""
        if similarity.query.vectors is not similarity.gallery.vectors or not similarity.symmetric:
            return False
        return 13 * 4 * len(similarity.gallery) ** 2 // 24 <= 5 * chunks.CHUNK_BYTES // 2

    def __call__(self, rows: slice) -> Tensor:
        """(rows, N) float32 similarities, higher for more alike."""
        scores = empty(rows.stop - rows.start, len(self.vectors), self.vectors.device)
        for stripe, known in zip(self._stripes, self._scores, strict=True):
            first, last = max(rows.start, stripe.start), min(rows.stop, stripe.stop)
            if first < last:
                own = known[first - stripe.start : last - stripe.start]
                scores[first - rows.start : last - rows.start, stripe.start :] = own
            after = max(rows.start, stripe.stop)
            if after < rows.stop:
                columns = slice(after - stripe.start, rows.stop - stripe.start)
                _copy(known[:, columns].T, scores[after - rows.start :, stripe])
        return scores


def _copy(source: Tensor, target: Tensor) -> None:
    """On the CPU by NumPy: for what is transposed, it takes three quarters of the time of torch on one thread."""
    if source.device.type == "cpu":
        np.copyto(target.numpy(), source.numpy())
    else:
        target.copy_(source)
