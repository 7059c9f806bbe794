"""Re-ranking: k-reciprocal encoding and query expansion."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from benchmark.retrieval import _chunks as chunks
from benchmark.retrieval._product import empty
from benchmark.retrieval._similarity import CosineSimilarity
from benchmark.retrieval.embeddings import require_comparable
from benchmark.utils.parallel import parallel_map
from benchmark.utils.precision import full_precision

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
        self._scores = parallel_map(lambda rows: similarity(rows, slice(rows.start, None)), self._stripes, workers)
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


_SAME = 2e-6
"""Squared distances of unit vectors up to this are zero: the float32 cosine of a vector with itself is off by 1e-6."""
_SEARCH_BYTES = 16
"""What a pair of points occupies in `_search`: its distance, and the key by which it is sorted."""
_OVERLAP_BYTES = 48
"""What the arrays of `_overlap` occupy per pair of codes that meet in a column."""


@dataclass(frozen=True, slots=True)
class KReciprocal:
    """k-reciprocal re-ranking: gallery images that share neighbours with the query move up.

    Every image, of queries and gallery alike, is encoded by its k-reciprocal neighbours: those among its `k1` nearest
    that have it among theirs, and the neighbours of these where most are shared. Images are compared by the Jaccard
    distance of their codes, mixed with the distance that they had.

    Source: Zhong, Zheng, Cao, Li, "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017, as
    computed by fast-reid and torchreid (distances squared, and divided by the largest of each row).

    Raises ValueError, with the name of the setting, for one that is out of range.
    """

    k1: int = 20
    """How many nearest others may be reciprocal neighbours; all, where there are fewer."""
    k2: int = 6
    """Over how many nearest images, itself included, a code is averaged; 1 for none."""
    weight: float = 0.3
    """The share of the original distance, from 0 to 1 (lambda in the paper)."""

    def __post_init__(self) -> None:
        for name in ("k1", "k2"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must be from 0 to 1, not {self.weight}")

    def similarity(self, query: Tensor, gallery: Tensor) -> "_RerankedScores":
        """Encode all images; the scores are computed when rows of them are asked for.

        Of equally near images the first in the list counts as nearer, queries first; every image is its own nearest.
        Images of one and the same vector get the mean of their codes, so that they tie, whatever their order.

        Distances are computed in float32 on the device of the vectors, the codes on the CPU. Takes the memory of the
        vectors twice more, and about 200 MB at 20,000 images: the codes grow with their number, not its square.

        Args:
            query: (Q, D) floating point. Need not be normalised.
            gallery: (G, D) floating point, none of them a query's image: that would be its own neighbour twice.

        Returns:
            A callable that takes a slice of the queries and returns (rows, G) float32 on the vectors' device: minus the
            re-ranked distance, from -1 to 0, higher for more alike.

        Raises:
            ValueError: Shapes, types or devices do not fit.
        """
        require_comparable(query, gallery)
        points = torch.cat([query.detach().float(), gallery.detach().float()])
        return _RerankedScores(functional.normalize(points, dim=1, out=points), len(query), self)


class _RerankedScores:
    """Minus the re-ranked distances of queries and gallery, some rows at a time.

    Args:
        points: (N, D) float32, the queries before the gallery. Compared by squared euclidean distance as they are.
        queries: How many of them are queries.
        settings: The sizes of neighbourhoods, and the weight of the original distance.
    """

    def __init__(self, points: Tensor, queries: int, settings: KReciprocal) -> None:
        self._points = points
        self._squares = torch.linalg.vector_norm(points, dim=1).square()
        self._weight = settings.weight
        self._queries = queries
        # The distances of equal vectors from another are rounded alike, and so tie, only if they are computed once.
        others, place = points.unique(dim=0, return_inverse=True)
        if len(others) == len(points):
            others, place = points, torch.arange(len(points), device=points.device)
        nearest, distances, self._farthest = self._search(max(settings.k1 + 1, settings.k2), others, place)
        codes = self._encode(nearest[:, : settings.k1 + 1], distances[:, : settings.k1 + 1], round(settings.k1 / 2))
        if settings.k2 > 1:
            averaged = nearest[:, : settings.k2]
            codes = _graph(averaged, np.full(averaged.shape, 1 / averaged.shape[1], np.float32)) @ codes
        group = place.cpu().numpy()
        codes = _graph(group[:, None], 1 / np.bincount(group).astype(np.float32)[group]).T.tocsr() @ codes
        self._codes = codes
        """Of each different vector."""
        self._query_group = group[:queries]
        groups, self._gallery_group = np.unique(group[queries:], return_inverse=True)
        self._gallery_codes = codes[groups].tocsc()

    def __call__(self, rows: slice) -> Tensor:
        """The (rows, G) float32 scores of these rows of the query list, higher for more alike."""
        rows = slice(*rows.indices(self._queries))
        scores = self._distances(rows, self._points[self._queries :], self._squares[self._queries :])
        scores.div_(self._farthest[rows, None]).mul_(-self._weight)
        codes = self._codes[self._query_group[rows]]
        meetings = np.diff(self._gallery_codes.indptr)[codes.indices]
        pairs = np.diff(np.append(0, meetings.cumsum())[codes.indptr])
        row_bytes = _OVERLAP_BYTES * int(pairs.max(initial=0)) + 24 * scores.shape[1]
        for part in chunks.chunks(len(scores), row_bytes):
            overlap = self._overlap(codes[part])
            jaccard = 1 - overlap / (2 - overlap)
            scores[part] -= torch.from_numpy(jaccard[:, self._gallery_group] * (1 - self._weight)).to(scores)
        return scores

    def _distances(self, rows: slice, others: Tensor, squares: Tensor) -> Tensor:
        """Squared distances (rows, M) of these points and `others`, (M, D) with their (M,) squared norms."""
        with full_precision(others.device):
            distances = torch.addmm(squares, self._points[rows], others.T, alpha=-2)
        return functional.threshold(distances.add_(self._squares[rows, None]), _SAME, 0.0, inplace=True)

    def _search(self, count: int, others: Tensor, place: Tensor) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """The `count` nearest points of each, itself first, as far as there are so many.

        Args:
            count: How many.
            others: (U, D): the different points.
            place: (N,) int64: which of these each point is.

        Returns:
            Their positions, (N, count) int64, their distances, (N, count) float32, divided by the largest of each row,
            and these largest, (N,) float32 on the device, 1 where all points are one.
        """
        repeated = len(others) < len(place)
        squares = torch.linalg.vector_norm(others, dim=1).square()
        positions = torch.arange(len(place), device=place.device)
        count = min(count, len(place))
        # Made before the loop: small tensors kept from between large temporary ones hinder the reuse of their memory.
        nearest, near = torch.empty(len(place), count, dtype=torch.int64), torch.empty(len(place), count)
        farthest = torch.empty(len(place), device=place.device)
        for rows in chunks.chunks(len(place), _SEARCH_BYTES * len(place)):
            distances = self._distances(rows, others, squares)
            distances = distances.index_select(1, place) if repeated else distances
            distances.diagonal(rows.start).fill_(-0.0)
            farthest[rows] = distances.amax(dim=1)
            # The bits of floats that are not negative are ordered as they are. Those of -0.0 come before all of them.
            keys = distances.view(torch.int32).long().bitwise_left_shift_(32).add_(positions)
            keys = keys.topk(count, largest=False).values
            nearest[rows] = (keys & 0xFFFFFFFF).cpu()
            near[rows] = (keys >> 32).int().view(torch.float32).cpu()
        farthest.masked_fill_(farthest == 0, 1.0)
        return nearest.numpy(), near.div_(farthest.cpu()[:, None]).numpy(), farthest

    def _encode(self, nearest: np.ndarray, distances: np.ndarray, half: int) -> Any:
        """Codes of the points, a (N, N) sparse array: the weights, of sum 1, of the members of their neighbourhoods.

        Args:
            nearest: (N, k1 + 1) int64.
            distances: (N, k1 + 1) float32, divided by the largest of each row.
            half: The size of the neighbourhoods by which others are extended.
        """
        close, core = (_mutual(nearest[:, : k + 1]) for k in (nearest.shape[1], half))
        shared = (close @ core).multiply(close).tocsr()  # at (i, j): how much of j's core is close to i
        shared.data = (3 * shared.data > 2 * core.sum(axis=1)[shared.indices]).astype(np.int32)
        shared.eliminate_zeros()
        added = shared @ core  # of which what is close is left out
        added = (added - added.multiply(close)).tocsr()
        added.eliminate_zeros()
        codes = _graph(nearest, np.exp(-distances)).multiply(close).tocsr()
        codes = codes + sparse.csr_array((self._added_weights(added), added.indices, added.indptr), added.shape)
        codes.data /= np.repeat(codes.sum(axis=1), np.diff(codes.indptr))
        return codes

    def _added_weights(self, added: Any) -> np.ndarray:
        """The weights, before they are normalised, of the pairs of points stored in a sparse array; in their order."""
        first = torch.from_numpy(np.repeat(np.arange(added.shape[0]), np.diff(added.indptr))).to(self._points.device)
        second = torch.from_numpy(added.indices).to(self._points.device)
        distances = self._squares[first] + self._squares[second]
        for pairs in chunks.chunks(len(first), 3 * 4 * self._points.shape[1]):
            with full_precision(distances.device):
                product = torch.linalg.vecdot(self._points[first[pairs]], self._points[second[pairs]])
            distances[pairs] -= 2 * product
        functional.threshold(distances, _SAME, 0.0, inplace=True)
        return distances.div_(self._farthest[first]).neg_().exp_().cpu().numpy()

    def _overlap(self, codes: Any) -> np.ndarray:
        """Sum over the columns of the smaller entry of (Q, N) `codes` and of every gallery vector's: (Q, U) float64.

        Only pairs of entries that are not zero are visited: those of the gallery are listed by column.
        """
        gallery = self._gallery_codes
        start, stop = gallery.indptr[codes.indices], gallery.indptr[codes.indices + 1]
        counts = stop - start
        entry = np.repeat(np.arange(len(counts)), counts)  # of the queries' codes, that a pair belongs to
        other = np.arange(len(entry)) + (stop - counts.cumsum())[entry]
        smaller = np.minimum(codes.data[entry], gallery.data[other])
        row = np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))[entry]
        cells = row * gallery.shape[0] + gallery.indices[other]
        size = codes.shape[0] * gallery.shape[0]
        return np.bincount(cells, weights=smaller, minlength=size).reshape(-1, gallery.shape[0])


def _graph(neighbours: np.ndarray, values: np.ndarray) -> Any:
    """A (N, N) sparse array with the (N, k) `values` in the columns of the (N, k) `neighbours` of each point."""
    count, width = neighbours.shape
    return sparse.csr_array((values.ravel(), neighbours.ravel(), np.arange(count + 1) * width), (count, count))


def _mutual(neighbours: np.ndarray) -> Any:
    """A (N, N) sparse array of ones where two points are among the (N, k) `neighbours` of each other."""
    graph = _graph(neighbours, np.ones(neighbours.shape, np.int32))
    return graph.multiply(graph.T.tocsr()).tocsr()


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
        for rows in chunks.chunks(len(query), 4 * (len(gallery) + count * query.shape[1])):
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
