"""Retrieval scores of one list of embeddings against another."""

import torch

from benchmark.retrieval.chunks import chunks
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.matching import Matching
from benchmark.retrieval.metrics import average_precision, first_hit, inverse_negative_penalty
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.ranking import Ranking
from benchmark.retrieval.scores import Scores
from benchmark.retrieval.similarity import ROUNDING, CosineSimilarity
from benchmark.retrieval.tracks import Tracks

_SCORE_BYTES = 4
_MATCH_BYTES = 120
"""What the tables of columns, thresholds, ranks and precisions occupy per query and match."""


@torch.no_grad()
def evaluate(query: Embeddings, gallery: Embeddings | None, protocol: Protocol) -> Scores:
    """Rank the gallery for every query by cosine similarity and score the rankings by the protocol.

    Where the protocol says that query and gallery are one list, `gallery` is either None or the same list embedded by
    another model. The result depends neither on the order of the gallery nor on how the queries are cut into chunks.
    Works on the device of the embeddings, in float32; takes about 100 MB beside them, whatever their number.

    Raises ValueError where the two lists do not fit each other, and where no query has a valid positive.
    """
    gallery = _fitting_gallery(query, gallery, protocol)
    similarity = CosineSimilarity(query.vectors, gallery.vectors)
    tracks = Tracks(gallery) if protocol.tracks else None
    matching = Matching(query, gallery if tracks is None else tracks, protocol)
    row_bytes = _SCORE_BYTES * (len(gallery) + query.vectors.shape[1]) + _MATCH_BYTES * matching.largest
    parts = []
    for rows in chunks(len(query), row_bytes):
        scores = similarity(rows) if tracks is None else tracks.best(similarity(rows))
        ranking = Ranking.from_scores(scores, matching(rows), tolerance=ROUNDING)
        precision = average_precision(ranking, protocol.average_precision)
        parts.append((precision, inverse_negative_penalty(ranking), first_hit(ranking)))
    precision, penalty, hit = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    valid = hit > 0
    if not valid.any():
        raise ValueError(f"{len(query)} queries have no positive {_cause(matching)}")
    return Scores(
        mAP=precision[valid].mean().item(),
        mINP=penalty[valid].mean().item(),
        recall={k: (hit[valid] <= k).double().mean().item() for k in protocol.recall_at},
        queries=len(query),
        skipped=int((~valid).sum()),
        average_precision=precision,
        first_hit=hit,
    )


def _fitting_gallery(query: Embeddings, gallery: Embeddings | None, protocol: Protocol) -> Embeddings:
    if gallery is None:
        if not protocol.query_in_gallery:
            raise ValueError("a gallery is needed: the protocol does not say that the queries are their own gallery")
        return query
    if gallery.vectors.shape[1] != query.vectors.shape[1]:
        sizes = f"{query.vectors.shape[1]} and {gallery.vectors.shape[1]}"
        raise ValueError(f"query and gallery embeddings differ in size: {sizes}")
    if protocol.query_in_gallery and not (
        torch.equal(query.identities, gallery.identities) and torch.equal(query.cameras, gallery.cameras)
    ):
        raise ValueError("the protocol says that query and gallery are one list, but their labels differ")
    return gallery


def _cause(matching: Matching) -> str:
    if not matching.largest:
        return "in the gallery: no identity is in both lists"
    return "after the same-camera rule" if matching.protocol.camera_rule else "besides themselves"
