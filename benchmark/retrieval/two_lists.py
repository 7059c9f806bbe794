"""Vectors of queries and gallery that can be compared."""

from torch import Tensor


def require_comparable(query: Tensor, gallery: Tensor) -> None:
    """Refuse (Q, D) and (G, D) vectors that cannot be compared.

    Raises:
        ValueError: Shapes, types or devices do not fit.
    """
    for name, vectors in (("query", query), ("gallery", gallery)):
        if vectors.ndim != 2 or not vectors.is_floating_point() or not len(vectors):
            raise ValueError(f"{name} must be (N, D) floating point with N >= 1, not {tuple(vectors.shape)}")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query and gallery vectors differ in size: {query.shape[1]} and {gallery.shape[1]}")
    if query.device != gallery.device:
        raise ValueError(f"the query is on {query.device}, the gallery on {gallery.device}")
