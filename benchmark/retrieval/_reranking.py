"""Computation of re-ranking with k-reciprocal neighbors, and of query expansion."""

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from benchmark.retrieval import _chunks
from benchmark.retrieval.reranking import KReciprocal, QueryExpansion
from benchmark.utils.precision import full_precision

_ZERO_DISTANCE = 2e-6
"""Squared distances of unit vectors up to this are zero: the float32 cosine of a vector with itself is off by 1e-6."""
_SEARCH_BYTES = 16
"""Bytes per pair of points during the neighbor search: the distance, and its sort key."""
_OVERLAP_BYTES = 48
"""Bytes per pair of nonzero entries of two codes in the same column, while their overlap is computed."""


def rerank(query: Tensor, gallery: Tensor, settings: KReciprocal) -> "RerankedScores":
    """Encode all images; see `KReciprocal.similarity`."""
    _require_comparable(query, gallery)
    points = torch.cat([query.detach().float(), gallery.detach().float()])
    return RerankedScores(functional.normalize(points, dim=1, out=points), len(query), settings)


@torch.no_grad()
def expand(query: Tensor, gallery: Tensor, settings: QueryExpansion, positions: Tensor | None = None) -> Tensor:
    """Return the expanded queries; see `QueryExpansion.expand`."""
    _require_comparable(query, gallery)
    gallery = gallery.float()
    scale = torch.linalg.vector_norm(gallery, dim=1).clamp_min(1e-12).reciprocal()
    count = min(settings.k, len(gallery) - (positions is not None))
    expanded = torch.empty(query.shape, device=query.device)
    for rows in _chunks.chunks(len(query), 4 * (len(gallery) + count * query.shape[1])):
        unit = functional.normalize(query[rows].float(), dim=1)
        with full_precision(query.device):
            cosines = torch.mm(unit, gallery.T).mul_(scale)
            if positions is not None:
                cosines.scatter_(1, positions[rows, None], -torch.inf)
            nearest = cosines.topk(count, dim=1)
            weights = nearest.values.clamp_min(0).pow(settings.alpha) if settings.alpha else 1.0
            weights = weights * scale[nearest.indices]
            added = torch.bmm(weights[:, None], gallery[nearest.indices]).squeeze(1)
        expanded[rows] = functional.normalize(unit + added, dim=1)
    return expanded


class RerankedScores:
    """Negative re-ranked distances of queries and gallery, for some queries at a time.

    Args:
        points: (N, D) float32, queries before gallery. Compared by squared Euclidean distance, without normalization.
        queries: Number of queries among them.
        settings: Neighborhood sizes, and the weight of the original distance.
    """

    def __init__(self, points: Tensor, queries: int, settings: KReciprocal) -> None:
        self._points = points
        self._squares = torch.linalg.vector_norm(points, dim=1).square()
        self._weight = settings.weight
        self._queries = queries
        # Equal points tie only if their distances to another point are computed once: rounding depends on the position.
        distinct, group = points.unique(dim=0, return_inverse=True)
        if len(distinct) == len(points):
            distinct, group = points, torch.arange(len(points), device=points.device)
        nearest, distances, self._farthest = self._search(max(settings.k1 + 1, settings.k2), distinct, group)
        codes = self._encode(nearest[:, : settings.k1 + 1], distances[:, : settings.k1 + 1], round(settings.k1 / 2))
        if settings.k2 > 1:
            averaged = nearest[:, : settings.k2]
            codes = _graph(averaged, np.full(averaged.shape, 1 / averaged.shape[1], np.float32)) @ codes
        groups = group.cpu().numpy()
        codes = _graph(groups[:, None], 1 / np.bincount(groups).astype(np.float32)[groups]).T.tocsr() @ codes
        self._codes = codes
        """Codes of the distinct points."""
        self._query_group = groups[:queries]
        gallery_groups, self._gallery_group = np.unique(groups[queries:], return_inverse=True)
        self._gallery_codes = codes[gallery_groups].tocsc()

    def __call__(self, rows: slice) -> Tensor:
        """Return the (rows, G) float32 scores of some queries."""
        rows = slice(*rows.indices(self._queries))
        scores = self._distances(rows, self._points[self._queries :], self._squares[self._queries :])
        scores.div_(self._farthest[rows, None]).mul_(-self._weight)
        codes = self._codes[self._query_group[rows]]
        pairs_per_entry = np.diff(self._gallery_codes.indptr)[codes.indices]
        pairs = np.diff(np.append(0, pairs_per_entry.cumsum())[codes.indptr])
        row_bytes = _OVERLAP_BYTES * int(pairs.max(initial=0)) + 24 * scores.shape[1]
        for part in _chunks.chunks(len(scores), row_bytes):
            overlap = self._overlap(codes[part])
            jaccard = 1 - overlap / (2 - overlap)
            scores[part] -= torch.from_numpy(jaccard[:, self._gallery_group] * (1 - self._weight)).to(scores)
        return scores

    def _distances(self, rows: slice, others: Tensor, squares: Tensor) -> Tensor:
        """Return the squared distances of some points to (M, D) others with (M,) squared norms: (rows, M)."""
        with full_precision(others.device):
            distances = torch.addmm(squares, self._points[rows], others.T, alpha=-2)
        return functional.threshold(distances.add_(self._squares[rows, None]), _ZERO_DISTANCE, 0.0, inplace=True)

    def _search(self, count: int, distinct: Tensor, group: Tensor) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Find the nearest points of each point, itself first.

        Args:
            count: Number of points to find; N if there are fewer.
            distinct: (U, D) distinct points.
            group: (N,) int64 position of each point in `distinct`.

        Returns:
            Positions of the nearest points, (N, count) int64; their distances divided by the largest of the row,
            (N, count) float32; and these largest distances, (N,) float32 on the device, 1 if all points are equal.
        """
        has_duplicates = len(distinct) < len(group)
        squares = torch.linalg.vector_norm(distinct, dim=1).square()
        positions = torch.arange(len(group), device=group.device)
        count = min(count, len(group))
        # Allocated before the loop: small results between large temporary tensors would fragment the memory.
        nearest, near = torch.empty(len(group), count, dtype=torch.int64), torch.empty(len(group), count)
        farthest = torch.empty(len(group), device=group.device)
        for rows in _chunks.chunks(len(group), _SEARCH_BYTES * len(group)):
            distances = self._distances(rows, distinct, squares)
            distances = distances.index_select(1, group) if has_duplicates else distances
            distances.diagonal(rows.start).fill_(-0.0)
            farthest[rows] = distances.amax(dim=1)
            # The bit patterns of nonnegative floats ascend with their values, and that of -0.0 is the smallest int32.
            keys = distances.view(torch.int32).long().bitwise_left_shift_(32).add_(positions)
            keys = keys.topk(count, largest=False).values
            nearest[rows] = (keys & 0xFFFFFFFF).cpu()
            near[rows] = (keys >> 32).int().view(torch.float32).cpu()
        farthest.masked_fill_(farthest == 0, 1.0)
        return nearest.numpy(), near.div_(farthest.cpu()[:, None]).numpy(), farthest

    def _encode(self, nearest: np.ndarray, distances: np.ndarray, half: int) -> Any:
        """Return the codes of all points: a sparse (N, N) array of neighborhood weights, whose rows sum to 1.

        Args:
            nearest: (N, k1 + 1) int64 nearest points, itself first.
            distances: (N, k1 + 1) float32 distances, divided by the largest of the row.
            half: Size of the neighborhoods that extend other neighborhoods.
        """
        reciprocal, core = (_mutual(nearest[:, : k + 1]) for k in (nearest.shape[1], half))
        # (i, j): number of points in j's core that are reciprocal neighbors of i, where j is one too.
        shared = (reciprocal @ core).multiply(reciprocal).tocsr()
        shared.data = (3 * shared.data > 2 * core.sum(axis=1)[shared.indices]).astype(np.int32)
        shared.eliminate_zeros()
        added = shared @ core
        added = (added - added.multiply(reciprocal)).tocsr()  # without the points that are reciprocal neighbors anyway
        added.eliminate_zeros()
        codes = _graph(nearest, np.exp(-distances)).multiply(reciprocal).tocsr()
        codes = codes + sparse.csr_array((self._added_weights(added), added.indices, added.indptr), added.shape)
        codes.data /= np.repeat(codes.sum(axis=1), np.diff(codes.indptr))
        return codes

    def _added_weights(self, added: Any) -> np.ndarray:
        """Return the unnormalized weights of the pairs of points that a sparse array stores, in their order."""
        first = torch.from_numpy(np.repeat(np.arange(added.shape[0]), np.diff(added.indptr))).to(self._points.device)
        second = torch.from_numpy(added.indices).to(self._points.device)
        distances = self._squares[first] + self._squares[second]
        for pairs in _chunks.chunks(len(first), 3 * 4 * self._points.shape[1]):
            with full_precision(distances.device):
                product = torch.linalg.vecdot(self._points[first[pairs]], self._points[second[pairs]])
            distances[pairs] -= 2 * product
        functional.threshold(distances, _ZERO_DISTANCE, 0.0, inplace=True)
        return distances.div_(self._farthest[first]).neg_().exp_().cpu().numpy()

    def _overlap(self, codes: Any) -> np.ndarray:
        """Return the sum over columns of the smaller entry of (Q, N) codes and every gallery code: (Q, U) float64.

        Visits only pairs of nonzero entries, because the gallery codes are stored by column.
        """
        gallery = self._gallery_codes
        start, stop = gallery.indptr[codes.indices], gallery.indptr[codes.indices + 1]
        counts = stop - start
        query_entry = np.repeat(np.arange(len(counts)), counts)  # of each pair
        gallery_entry = np.arange(len(query_entry)) + (stop - counts.cumsum())[query_entry]
        smaller = np.minimum(codes.data[query_entry], gallery.data[gallery_entry])
        row = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))[query_entry]
        cells = row * gallery.shape[0] + gallery.indices[gallery_entry]
        size = codes.shape[0] * gallery.shape[0]
        return np.bincount(cells, weights=smaller, minlength=size).reshape(-1, gallery.shape[0])


def _require_comparable(query: Tensor, gallery: Tensor) -> None:
    for name, vectors in (("query", query), ("gallery", gallery)):
        if vectors.ndim != 2 or not vectors.is_floating_point() or not len(vectors):
            raise ValueError(f"{name} must be (N, D) floating point with N >= 1, not {tuple(vectors.shape)}")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query and gallery vectors differ in size: {query.shape[1]} and {gallery.shape[1]}")
    if query.device != gallery.device:
        raise ValueError(f"query and gallery must be on one device, not on {query.device} and {gallery.device}")


def _graph(neighbors: np.ndarray, values: np.ndarray) -> Any:
    """Return a sparse (N, N) array with (N, k) values in the columns given by each point's (N, k) neighbors."""
    count, width = neighbors.shape
    return sparse.csr_array((values.ravel(), neighbors.ravel(), np.arange(count + 1) * width), (count, count))


def _mutual(neighbors: np.ndarray) -> Any:
    """Return a sparse (N, N) array with a one where two points are among each other's (N, k) neighbors."""
    graph = _graph(neighbors, np.ones(neighbors.shape, np.int32))
    return graph.multiply(graph.T.tocsr()).tocsr()
