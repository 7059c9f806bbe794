"""Retrieval scores by an approximate index."""

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmark.retrieval._chunks import chunks
from benchmark.retrieval._matching import Matches, Matching
from benchmark.retrieval._ranking import (
    Ranking,
    average_precision,
    count_reaching,
    first_match_rank,
    positive_thresholds,
)
from benchmark.retrieval._search import MATCH_BYTES, Search
from benchmark.retrieval._similarity import ROUNDING, CosineSimilarity
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.evaluate import gallery_of
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.scores import PerQueryResults


@dataclass(frozen=True, slots=True, eq=False)
class ApproximateScores(PerQueryResults):
    """Retrieval scores of the first `k` entries that an approximate index returned, and how far off they are.

    Per query and as fractions from 0 to 1: means over the queries that have a valid positive. A positive that was not
    returned counts as never found. So the rank of the last one is not known, and there is no mINP.

    Everything is on the CPU, in the order of the queries. As text it always says that, and how, it is approximate.

    Raises ValueError where the parts do not fit each other, and where no query has a positive.
    """

    index: str
    """Of faiss's index factory."""
    k: int
    """How many gallery entries were searched for per query, those that the protocol ignores included."""
    recall_at: tuple[int, ...]
    """The K of `recall`."""
    positives: Tensor
    """(Q,) int64: how many correct answers the gallery holds under the protocol; 0 where the query was skipped."""
    first_match_rank: Tensor
    """(Q,) int64: rank of the first correct answer; 0 where none was found or the query was skipped."""
    average_precision: Tensor
    """(Q,) float64, divided by all positives of the query; NaN where it was skipped."""
    sampled: int
    """On how many queries the two figures below were measured."""
    neighbour_recall: float
    """The share of the 10 most similar gallery entries that the index returned among its first 10."""
    mAP_error: float
    """Mean average precision minus the exact one; above 0 where mainly wrong answers are left out."""

    def __post_init__(self) -> None:
        queries = len(self.positives)
        for name in ("positives", "first_match_rank", "average_precision"):
            values = getattr(self, name)
            if values.shape != (queries,) or values.device.type != "cpu":
                raise ValueError(
                    f"{name} must be ({queries},) on the CPU, not {tuple(values.shape)} on {values.device}"
                )
        if not self.valid.any():
            raise ValueError(f"none of {queries} queries has a positive")
        precisions = self.average_precision[self.valid]
        if not ((precisions >= 0) & (precisions <= 1)).all():
            raise ValueError("average_precision must lie between 0 and 1")
        if (
            not torch.equal(self.first_match_rank[self.valid] > 0, precisions > 0)
            or self.first_match_rank[~self.valid].any()
        ):
            raise ValueError("first_match_rank must be 0 where no correct answer was found, and there alone")

    def __str__(self) -> str:
        recalls = ", ".join(f"Recall@{k} {value:.4f}" for k, value in self.recall.items())
        return (
            f"mAP {self.mAP:.4f}, {recalls}; approximate, by the first {self.k} of {self.index}: neighbour recall "
            f"{self.neighbour_recall:.4f}, mAP error {self.mAP_error:+.4f} on {self.sampled} queries"
        )

    @property
    def mAP(self) -> float:
        """Mean average precision."""
        return self.mean(self.average_precision)

    @property
    def recall(self) -> dict[int, float]:
        """Recall@K by K: the share of queries with a correct answer among the first K; too low for a K above `k`."""
        return {k: self.cmc(k) for k in self.recall_at}

    def cmc(self, k: int) -> float:
        """The share of queries with a correct answer among the first `k`: Recall@K for any K."""
        return self.mean(((self.first_match_rank > 0) & (self.first_match_rank <= k)).double())


_SAMPLE = 256
"""Queries that are also searched exactly."""
_NEAREST = 10
"""Of their neighbours, how many are looked for among as many that the index returned."""
_TRAINING_BYTES = 256 * 2**20
"""Of the vectors that an index is trained with."""
_ENTRY_BYTES = 80
"""What the tables of columns, similarities and relations occupy per entry of a list."""


@torch.no_grad()
def evaluate_approximately(
    query: Embeddings, gallery: Embeddings | None, protocol: Protocol, *, index: str = "HNSW32", k: int = 1000
) -> ApproximateScores:
    """As `evaluate`, of the first `k` entries of every ranked list alone, as an index of faiss finds them.

    Entries are ranked by the similarity that the index gives, which a compressed one distorts; two no further apart
    than `ROUNDING` are tied. What the protocol ignores is among the `k`. Positives that the index does not return add
    nothing to average precision, which is divided by all, and a query without any found is a miss in Recall@K.

    At most 256 queries, evenly spread over those that have a positive, are searched exactly too. The result says how
    much of their 10 nearest (of their `k` nearest, where those are fewer) the index found, whatever the protocol makes
    of them; another entry within `ROUNDING` of the last is as good. And it says how far their mean average precision is
    off: to either side, because wrong answers that the index leaves out stand before no correct one.

    The result may depend on the order of the gallery and, where faiss builds a graph (HNSW) with several threads, on
    chance. The index is built and searched on the CPU, with as many threads as faiss is set to. It may hold the vectors
    again; beside it, about 256 MB are taken for training, and a chunk.

    Source of the indexes: Douze et al., "The Faiss library", 2024.

    Args:
        query: The images that are looked for.
        gallery: The images that are searched; may be None where the protocol says that the two are one list.
        protocol: How the rankings are judged.
        index: Of faiss's index factory, with inner products: "HNSW32", "IVF256,Flat", "SQ8".
        k: How many gallery entries are searched for; all, where there are fewer.

    Raises:
        ImportError: faiss is not installed.
        ValueError: faiss cannot build the index for this gallery; the protocol ranks something else than images by
            their similarity; otherwise as `evaluate`.
    """
    for rule in ("tracks", "expansion", "reranking"):
        if getattr(protocol, rule):
            raise ValueError(f"approximate search ranks images by their similarity: no protocol with {rule}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    gallery = gallery_of(query, gallery, protocol)
    search = Search(query, gallery, protocol)
    built = _built(gallery.vectors, index)
    k = min(k, len(gallery))
    parts, nearest = [], []
    query_bytes = 4 * query.vectors.shape[1] + _ENTRY_BYTES * k + MATCH_BYTES * search.matching.largest
    for rows in chain.from_iterable(search.matching.blocks(query_bytes)):
        similarity, columns = (torch.from_numpy(found) for found in built.search(_unit(query.vectors[rows]), k))
        device = query.vectors.device
        ranking = _ranking(search.matching, rows, similarity.to(device), columns.to(device))
        precision = average_precision(ranking, protocol.average_precision)
        parts.append((ranking.positives.cpu(), first_match_rank(ranking).cpu(), precision.cpu()))
        nearest.append(columns[:, :_NEAREST].clone())  # without the other columns
    positives, hits, precision = (torch.cat(column) for column in zip(*parts, strict=True))
    valid = positives.nonzero().flatten()
    if not len(valid):
        raise ValueError(f"{len(query)} queries have no positive {search.no_match_reason()}")
    sample = valid[:: -(-len(valid) // _SAMPLE)]
    recall, exact = _exactly(query, gallery, protocol, sample, torch.cat(nearest)[sample])
    return ApproximateScores(
        index=index,
        k=k,
        recall_at=protocol.recall_at,
        positives=positives,
        first_match_rank=hits,
        average_precision=precision,
        sampled=len(sample),
        neighbour_recall=recall,
        mAP_error=precision[sample].mean().item() - exact,
    )


def _built(gallery: Tensor, index: str) -> Any:
    """The faiss index of the unit vectors of (G, D) ones."""
    try:
        import faiss  # as late as here, because it is optional
    except ImportError as error:
        raise ImportError("approximate search needs faiss: pip install 'retrieval-distill-benchmark[ann]'") from error
    images, size = gallery.shape
    try:
        built = faiss.index_factory(size, index, faiss.METRIC_INNER_PRODUCT)
        if not built.is_trained:
            built.train(_unit(gallery[:: -(-4 * images * size // _TRAINING_BYTES)]))
        for rows in chunks(images, 4 * max(1, size)):
            built.add(_unit(gallery[rows]))
    except RuntimeError as error:
        reason = str(error).rpartition(": ")[2]  # behind the place in the code of faiss
        raise ValueError(f"faiss cannot build the index {index!r} of {images} vectors of {size}: {reason}") from error
    return built


def _ranking(matching: Matching, rows: slice, similarity: Tensor, columns: Tensor) -> Ranking:
    """Ranks of the positives that are in lists of K entries; 0 for those that are not.

    Args:
        matching: What is a positive.
        rows: Which queries, R of them.
        similarity: (R, K) float32, the most similar first.
        columns: (R, K) int64 positions in the gallery; -1 where the index found fewer than K.
    """
    relevance = matching.relevance(rows, columns.clamp_min(0)).masked_fill_(columns < 0, -1)
    width = min(columns.shape[1], max(1, matching.largest))  # the same for any rows, as of `Matching`
    correct, places = similarity.masked_fill(relevance != 1, -torch.inf).topk(width, dim=1)
    found = Matches(columns.gather(1, places), correct > -torch.inf)
    thresholds = positive_thresholds(correct, found, ROUNDING, matching.protocol.ties)
    negatives = count_reaching(similarity.masked_fill(relevance != 0, -torch.inf), thresholds)
    return replace(Ranking.from_counts(negatives, found), positives=matching(rows).positive.sum(dim=1))


def _exactly(
    query: Embeddings, gallery: Embeddings, protocol: Protocol, sample: Tensor, returned: Tensor
) -> tuple[float, float]:
    """The share of right ones among the first N entries of some lists, and the exact mean average precision of these.

    Args:
        query: All that was looked for.
        gallery: All that was searched.
        protocol: How the rankings are judged.
        sample: (S,) int64: which of the queries, on the CPU; all with a positive.
        returned: (S, N) int64 positions in the gallery, on the CPU; -1 where the index found fewer.
    """
    sample, returned = sample.to(query.vectors.device), returned.to(query.vectors.device)
    chosen = query.take(sample)
    values, first = Search(chosen, gallery, protocol, positions=sample).measure(keep=returned.shape[1])
    assert first is not None  # N >= 1
    cosines = CosineSimilarity(chosen, gallery).pairs(slice(None), returned.clamp_min(0)).cpu()
    right = (cosines >= first.similarity[:, -1:] - ROUNDING) & (returned.cpu() >= 0)
    return right.double().mean().item(), values["average_precision"].mean().item()


def _unit(vectors: Tensor) -> NDArray[Any]:
    return functional.normalize(vectors.float(), dim=1).cpu().numpy()
