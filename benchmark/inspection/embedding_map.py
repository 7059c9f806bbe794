"""A map of embeddings in two dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmark.data.samples import Sample
from benchmark.errors import UserError
from benchmark.retrieval import Embeddings

METHODS = {"pca": "PCA", "tsne": "t-SNE"}
"""Projections by name, with their titles."""
MAX_POINTS = 1000
"""Largest number of points: t-SNE of so many takes about ten seconds, and a page with more is hard to read."""
MAX_IDENTITIES = 8
"""Largest number of identities that have a color."""
_LEAST_POINTS = 3


class Point(NamedTuple):
    """An image on the map."""

    x: float
    """From 0 to 1."""
    y: float
    sample: Sample
    identity: int | None
    """Position of its identity in `EmbeddingMap.identities`; None if it has no color."""
    query: bool


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """Query and gallery images, arranged so that similar embeddings are near to each other.

    Attributes:
        title: Name of the projection.
        identities: The labels of the identities that have a color.
        points: The images; colored ones last, so that they are drawn on top.
        images: Number of images of which these are a part.
    """

    title: str
    identities: tuple[int, ...]
    points: tuple[Point, ...]
    images: int


def map_embeddings(
    query: Embeddings,
    gallery: Embeddings | None,
    samples: Sequence[Sample],
    *,
    method: str,
    identities: Sequence[int],
) -> EmbeddingMap:
    """Project embeddings to two dimensions, by PCA or t-SNE of the embeddings scaled to unit length.

    All images of the colored identities are on the map, and a random part of the others.

    Args:
        query: Embeddings of the query images.
        gallery: Embeddings of the gallery images; None if the queries are the gallery.
        samples: The images: queries first, then the gallery.
        method: A key of `METHODS`.
        identities: Labels of identities to color, the most important first; at most `MAX_IDENTITIES` are.

    Raises:
        UserError: There are too few images.
    """
    parts = [query] if gallery is None else [query, gallery]
    vectors = np.concatenate([F.normalize(part.vectors.float()).cpu().numpy() for part in parts])
    labels = np.concatenate([part.identities.cpu().numpy() for part in parts])
    if len(vectors) < _LEAST_POINTS:
        raise UserError(
            f"--map {method}: a map needs at least {_LEAST_POINTS} images, not {len(vectors)}; use --map none"
        )
    colored = tuple(dict.fromkeys(identities))[:MAX_IDENTITIES]
    order = np.random.default_rng(0).permutation(len(vectors))
    order = order[np.argsort(~np.isin(labels[order], colored), kind="stable")][:MAX_POINTS]  # colored ones first
    places = _project(vectors[order], method)
    points = [
        Point(
            x,
            y,
            samples[index],
            colored.index(labels[index]) if labels[index] in colored else None,
            index < len(query.vectors),
        )
        for (x, y), index in zip(places.tolist(), order.tolist(), strict=True)
    ]
    return EmbeddingMap(METHODS[method], colored, tuple(reversed(points)), len(vectors))


def _project(vectors: NDArray[np.float32], method: str) -> NDArray[np.float64]:
    """Return (N, 2) places from 0 to 1 of (N, D) vectors."""
    # Imported here, because scikit-learn takes a second.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if vectors.shape[1] < 2:
        vectors = np.pad(vectors, ((0, 0), (0, 2 - vectors.shape[1])))
    if method == "pca":
        with np.errstate(invalid="ignore"):  # equal vectors have no variance to explain
            places = PCA(2, random_state=0).fit_transform(vectors)
    else:
        perplexity = min(30.0, (len(vectors) - 1) / 3)
        places = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)
    low, extent = places.min(0), np.ptp(places, 0)
    return ((places - low) / np.where(extent > 0, extent, 1)).astype(np.float64)
