"""Retrieval scores by an approximate index."""

from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmark.retrieval.approximate_scores import ApproximateScores
from benchmark.retrieval.chunks import chunks
from benchmark.retrieval.counting import count_reaching
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.evaluate import gallery_of
from benchmark.retrieval.matches import Matches
from benchmark.retrieval.matching import Matching
from benchmark.retrieval.metrics import average_precision, first_hit
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.ranking import Ranking, positive_thresholds
from benchmark.retrieval.search import Search
from benchmark.retrieval.similarity import ROUNDING, CosineSimilarity
from benchmark.retrieval.whole_rows import MATCH_BYTES

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
    for rule in ("tracks", "multi_query", "expansion", "reranking"):
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
        parts.append((ranking.positives.cpu(), first_hit(ranking).cpu(), precision.cpu()))
        nearest.append(columns[:, :_NEAREST].clone())  # without the other columns
    positives, hits, precision = (torch.cat(column) for column in zip(*parts, strict=True))
    valid = positives.nonzero().flatten()
    if not len(valid):
        raise ValueError(f"{len(query)} queries have no positive {search.why_nothing()}")
    sample = valid[:: -(-len(valid) // _SAMPLE)]
    recall, exact = _exactly(query, gallery, protocol, sample, torch.cat(nearest)[sample])
    return ApproximateScores(
        index=index,
        k=k,
        recall_at=protocol.recall_at,
        positives=positives,
        first_hit=hits,
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
    relation = matching.relation(rows, columns.clamp_min(0)).masked_fill_(columns < 0, -1)
    width = min(columns.shape[1], max(1, matching.largest))  # the same for any rows, as of `Matching`
    correct, places = similarity.masked_fill(relation != 1, -torch.inf).topk(width, dim=1)
    found = Matches(columns.gather(1, places), correct > -torch.inf)
    thresholds = positive_thresholds(correct, found, ROUNDING, matching.protocol.ties)
    negatives = count_reaching(similarity.masked_fill(relation != 0, -torch.inf), thresholds)
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
