"""Approximate evaluation: retrieval scores from a faiss index, and their error relative to the exact search."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmark.retrieval import _chunks
from benchmark.retrieval._evaluate import resolve_gallery
from benchmark.retrieval._matching import Matches, Matching
from benchmark.retrieval._ranking import (
    Ranking,
    average_precision,
    count_reaching,
    first_match_rank,
    positive_thresholds,
)
from benchmark.retrieval._search import MATCH_BYTES, Search
from benchmark.retrieval._similarity import TIE_TOLERANCE, CosineSimilarity
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.scores import PerQueryResults

NEEDS_FAISS = "needs faiss: pip install 'retrieval-distill-benchmark[ann]'"
"""What faiss is missing for follows from the text before."""
INDEXES = ("flat", "hnsw", "ivfpq")
"""Kinds of index that `choose_index` configures."""
_SAMPLE = 256
"""Maximum number of queries that are also searched exactly."""
_NEAREST = 10
"""Number of nearest neighbors whose recall is measured."""
_HNSW_CANDIDATES = 256
"""Candidates kept by a search of a graph (efSearch).

With 16, faiss's default, a search ends before it has found 1,000 entries: on 3,000 vectors of 6 identities the mAP was
0.33 instead of 0.71, although the 10 nearest were all found. With 256 it was 0.68.
"""
_TRAINING_BYTES = 256 * 2**20
"""Maximum bytes of the vectors with which an index is trained."""
_ENTRY_BYTES = 80
"""Bytes per entry of a list: tables of gallery indices, similarities and relevances."""
_TRAINING_PER_CENTROID = 39
"""Training vectors per k-means centroid below which faiss warns."""
_MAX_CODE_BYTES = 64
"""Maximum number of product quantizers, which is the number of bytes of an 8-bit code."""


@dataclass(frozen=True, slots=True, eq=False)
class ApproximateScores(PerQueryResults):
    """Retrieval scores of the first `k` entries that an approximate index returned, and their error.

    Scores are per query, with means over the valid queries, as fractions from 0 to 1. A positive that the index did not
    return adds nothing to a score. There is no mINP, because the rank of the last positive is unknown.

    All tensors are on the CPU, in the order of the queries. `str` gives the scores and their error.

    Raises:
        ValueError: Shapes or values are inconsistent, or no query has a correct match.
    """

    index: str
    """faiss index factory string."""
    parameters: str
    """faiss search-time parameters, such as `nprobe=8`; empty for faiss's defaults."""
    k: int
    """Number of gallery entries searched for per query, ignored entries included."""
    recall_at: tuple[int, ...]
    """Every K of `recall`."""
    positives: Tensor
    """(Q,) int64: number of correct matches in the gallery; 0 for skipped queries."""
    first_match_rank: Tensor
    """(Q,) int64: rank of the first correct match, counted from 1; 0 if none was found or the query was skipped."""
    average_precision: Tensor
    """(Q,) float64, divided by the number of all positives of the query; NaN for skipped queries."""
    sampled: int
    """Number of queries on which the two following values were measured."""
    neighbor_recall: float
    """Fraction of the 10 nearest gallery entries that are among the first 10 that the index returned."""
    mAP_error: float
    """Approximate minus exact mean average precision. Can be positive, because the index also misses negatives."""
    build_seconds: float
    """Time to train and fill the index."""
    search_seconds: float
    """Time to search the index for all queries and to score the results."""

    def __post_init__(self) -> None:
        queries = len(self.positives)
        for name in ("positives", "first_match_rank", "average_precision"):
            values = getattr(self, name)
            if values.shape != (queries,) or values.device.type != "cpu":
                raise ValueError(
                    f"{name} must be ({queries},) on the CPU, not {tuple(values.shape)} on {values.device}"
                )
        if not self.valid.any():
            raise ValueError(f"none of {queries} queries has a correct match")
        precisions = self.average_precision[self.valid]
        if not ((precisions >= 0) & (precisions <= 1)).all():
            raise ValueError("average_precision must be between 0 and 1")
        if (
            not torch.equal(self.first_match_rank[self.valid] > 0, precisions > 0)
            or self.first_match_rank[~self.valid].any()
        ):
            raise ValueError("first_match_rank must be 0 where no correct match was found, and only there")

    def __str__(self) -> str:
        recalls = ", ".join(f"Recall@{k} {value:.4f}" for k, value in self.recall.items())
        return (
            f"mAP {self.mAP:.4f}, {recalls}; approximate, from the first {self.k} entries of {self.index}: neighbor "
            f"recall {self.neighbor_recall:.4f}, mAP error {self.mAP_error:+.4f} on {self.sampled} queries"
        )

    @property
    def mAP(self) -> float:
        """Mean average precision."""
        return self.mean(self.average_precision)

    @property
    def recall(self) -> dict[int, float]:
        """Recall@K by K: the fraction of queries with a correct match in the first K ranks; too low for K above `k`."""
        return {k: self.cmc(k) for k in self.recall_at}

    def cmc(self, k: int) -> float:
        """Return Recall@K for any K: one value of the cumulative matching characteristic (CMC) curve."""
        return self.mean(((self.first_match_rank > 0) & (self.first_match_rank <= k)).double())


@torch.no_grad()
def evaluate_approximately(
    query: Embeddings,
    gallery: Embeddings | None,
    protocol: Protocol,
    *,
    index: str = "HNSW32",
    parameters: str = "",
    k: int = 1000,
) -> ApproximateScores:
    """Score the first `k` entries of every ranked list, as found by a faiss index.

    Entries are ranked by the similarity that the index returns, which quantization distorts. Similarities that differ
    by no more than 1e-6 are tied. Entries that the protocol ignores are among the `k`. Average precision is divided by
    the number of all positives, and a query for which no positive is returned is a miss in Recall@K.

    The error of the index is measured on at most 256 valid queries, evenly spaced, which are also searched exactly: the
    fraction of their 10 nearest entries (`k` nearest if `k` is smaller) that the index found, and the difference in
    mean average precision. Entries as near as the 10th count as found. The difference can be positive, because
    negatives that the index misses do not rank before any positive.

    The index is built and searched on the CPU with faiss's number of threads. The result can depend on the order of the
    gallery; if faiss builds a graph (HNSW) with several threads, it varies from run to run. Memory: the index, which
    may hold a copy of the vectors, about 256 MB for training, and one chunk.

    Source of the indexes: Douze et al., "The Faiss library", 2024.

    Args:
        query: Query images.
        gallery: Gallery images; None searches the queries, if the protocol has `query_in_gallery`.
        protocol: Evaluation settings.
        index: faiss index factory string, such as "HNSW32", "IVF256,Flat" or "SQ8", for inner products.
        parameters: faiss search-time parameters with commas between them, such as "nprobe=8".
        k: Number of gallery entries to search for per query, at least 1; all if there are fewer.

    Raises:
        ImportError: faiss is not installed.
        ValueError: faiss cannot build the index for this gallery, the protocol is not supported, or as in `evaluate`.
    """
    require_approximable(protocol)
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    gallery = resolve_gallery(query, gallery, protocol)
    search = Search(query, gallery, protocol)
    start = time.perf_counter()
    faiss_index = _build_index(gallery.vectors, index, parameters)
    built = time.perf_counter()
    k = min(k, len(gallery))
    results, nearest = [], []
    query_bytes = 4 * query.vectors.shape[1] + _ENTRY_BYTES * k + MATCH_BYTES * search.matching.max_matches
    for rows in chain.from_iterable(search.matching.blocks(query_bytes)):
        similarity, gallery_index = (
            torch.from_numpy(array) for array in faiss_index.search(_unit(query.vectors[rows]), k)
        )
        device = query.vectors.device
        ranking = _rank(search.matching, rows, similarity.to(device), gallery_index.to(device))
        precision = average_precision(ranking, protocol.average_precision)
        results.append((ranking.positives.cpu(), first_match_rank(ranking).cpu(), precision.cpu()))
        nearest.append(gallery_index[:, :_NEAREST].clone())  # a view would keep all columns in memory
    positives, first_match, precision = (torch.cat(column) for column in zip(*results, strict=True))
    searched = time.perf_counter()
    valid = positives.nonzero().flatten()
    if not len(valid):
        raise ValueError(f"none of {len(query)} queries has a correct match: {search.no_match_reason()}")
    sample = valid[:: -(-len(valid) // _SAMPLE)]
    recall, exact_mAP = _compare_with_exact(query, gallery, protocol, sample, torch.cat(nearest)[sample])
    return ApproximateScores(
        index=index,
        parameters=parameters,
        k=k,
        recall_at=protocol.recall_at,
        positives=positives,
        first_match_rank=first_match,
        average_precision=precision,
        sampled=len(sample),
        neighbor_recall=recall,
        mAP_error=precision[sample].mean().item() - exact_mAP,
        build_seconds=built - start,
        search_seconds=searched - built,
    )


def require_approximable(protocol: Protocol) -> None:
    """Check that approximate search supports a protocol, and that faiss is installed.

    Raises:
        ImportError: faiss is not installed.
        ValueError: The protocol ranks tracks, or has query expansion or re-ranking.
    """
    for setting in ("tracks", "expansion", "reranking"):
        if getattr(protocol, setting):
            raise ValueError(f"approximate search does not support protocols with {setting}: use the exact search")
    import_faiss()


def choose_index(kind: str, images: int, dimension: int) -> tuple[str, str]:
    """Return faiss's factory string and search-time parameters of an index that suits a gallery.

    `flat` compares all vectors. `hnsw` is a graph with 32 links per vector, of which a search keeps 256 candidates.
    `ivfpq` is an inverted file of about sqrt(N) lists, of which a search reads 1/8 but at least 8, with product
    quantization into at most 64 codes of 8 bits, or of 6 or 4 bits if the gallery is too small to train 8.

    Args:
        kind: One of `INDEXES`.
        images: Number of gallery vectors.
        dimension: Size of a vector.

    Raises:
        ValueError: The gallery is too small to train the index.
    """
    if kind == "flat":
        return "Flat", ""
    if kind == "hnsw":
        return "HNSW32", f"efSearch={_HNSW_CANDIDATES}"
    training = len(range(0, images, training_step(images, dimension)))
    bits = next((bits for bits in (8, 6, 4) if training >= _TRAINING_PER_CENTROID * 2**bits), None)
    if bits is None:
        raise ValueError(
            f"a gallery of {images} vectors is too small to train product quantization, which needs "
            f"{_TRAINING_PER_CENTROID * 2**4}: use flat or hnsw"
        )
    lists = max(1, min(math.isqrt(images), training // _TRAINING_PER_CENTROID))
    most_codes = max(1, min(_MAX_CODE_BYTES, dimension // 4))
    codes = next(codes for codes in range(most_codes, 0, -1) if dimension % codes == 0)
    return f"IVF{lists},PQ{codes}x{bits}", f"nprobe={min(lists, max(8, lists // 8))}"


def import_faiss() -> Any:
    try:
        import faiss  # optional, so imported only when needed
    except ImportError as error:
        raise ImportError(NEEDS_FAISS) from error
    return faiss


def trained_index(index: str, dimension: int, vectors: Callable[[], Any], parameters: str = "") -> Any:
    """Return a faiss index without vectors, trained if its kind needs that.

    Args:
        index: Description for faiss's index factory.
        dimension: Length of a vector.
        vectors: Returns the (N, dimension) float32 vectors for the training.
        parameters: Further parameters of the index, for faiss's ParameterSpace.
    """
    faiss = import_faiss()
    built = faiss.index_factory(dimension, index, faiss.METRIC_INNER_PRODUCT)
    if parameters:
        faiss.ParameterSpace().set_index_parameters(built, parameters)
    if hasattr(built, "do_polysemous_training"):
        built.do_polysemous_training = False  # for a filter that is not used here; takes most of the training
    if not built.is_trained:
        built.train(vectors())
    return built


def training_step(images: int, dimension: int) -> int:
    """Return n such that every n-th of the gallery vectors is used for training."""
    return -(-4 * images * dimension // _TRAINING_BYTES)


def _build_index(gallery: Tensor, index: str, parameters: str) -> Any:
    """Return the faiss index of (G, D) vectors, normalized."""
    images, dimension = gallery.shape
    try:
        built = trained_index(index, dimension, lambda: _unit(gallery[:: training_step(images, dimension)]), parameters)
        for rows in _chunks.chunks(images, 4 * max(1, dimension)):
            built.add(_unit(gallery[rows]))
    except RuntimeError as error:
        reason = str(error).rpartition(": ")[2]  # after the location in faiss's source
        described = f"{index!r} with {parameters}" if parameters else repr(index)
        raise ValueError(
            f"faiss cannot build the index {described} of {images} vectors of size {dimension}: {reason}"
        ) from error
    return built


def _rank(matching: Matching, rows: slice, similarity: Tensor, gallery_index: Tensor) -> Ranking:
    """Rank the positives in lists of K entries; positives that are not in the lists have rank 0.

    Args:
        matching: Finds the matches of the queries.
        rows: R queries.
        similarity: (R, K) float32, descending.
        gallery_index: (R, K) int64 positions in the gallery; -1 where the index returned fewer than K entries.
    """
    relevance = matching.relevance(rows, gallery_index.clamp_min(0)).masked_fill_(gallery_index < 0, -1)
    width = min(gallery_index.shape[1], max(1, matching.max_matches))  # for any rows, as in `Matching`
    matched, places = similarity.masked_fill(relevance != 1, -torch.inf).topk(width, dim=1)
    matches = Matches(gallery_index.gather(1, places), matched > -torch.inf)
    thresholds = positive_thresholds(matched, matches, TIE_TOLERANCE, matching.protocol.ties)
    negatives = count_reaching(similarity.masked_fill(relevance != 0, -torch.inf), thresholds)
    return replace(Ranking.from_counts(negatives, matches), positives=matching(rows).positive.sum(dim=1))


def _compare_with_exact(
    query: Embeddings, gallery: Embeddings, protocol: Protocol, sample: Tensor, returned: Tensor
) -> tuple[float, float]:
    """Search the gallery exactly for some queries.

    Args:
        query: All queries.
        gallery: The whole gallery.
        protocol: Evaluation settings.
        sample: (S,) int64 positions of valid queries, on the CPU.
        returned: (S, N) int64: the first entries that the index returned for them, on the CPU; -1 if there are fewer.

    Returns:
        The fraction of `returned` entries that are among the N nearest, and the mean average precision of the queries.
    """
    sample, returned = sample.to(query.vectors.device), returned.to(query.vectors.device)
    sampled_query = query.take(sample)
    values, nearest = Search(sampled_query, gallery, protocol, sample).measure(keep=returned.shape[1])
    assert nearest is not None  # N >= 1
    cosines = CosineSimilarity(sampled_query, gallery).pairs(slice(None), returned.clamp_min(0)).cpu()
    is_nearest = (cosines >= nearest.similarity[:, -1:] - TIE_TOLERANCE) & (returned.cpu() >= 0)
    return is_nearest.double().mean().item(), values["average_precision"].mean().item()


def _unit(vectors: Tensor) -> NDArray[Any]:
    return functional.normalize(vectors.float(), dim=1).cpu().numpy()
