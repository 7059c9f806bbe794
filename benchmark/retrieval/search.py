"""Queries that look for their matches in a gallery, by one protocol."""

from dataclasses import replace

import torch
from torch import Tensor

from benchmark.retrieval.chunks import chunks
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.matching import Matching
from benchmark.retrieval.metrics import (
    average_precision,
    average_precision_at_r,
    first_hit,
    inverse_negative_penalty,
    precision_at,
    r_precision,
)
from benchmark.retrieval.mutual_similarity import MutualSimilarity
from benchmark.retrieval.neighbours import Neighbours
from benchmark.retrieval.product import Precision
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.ranking import Ranking
from benchmark.retrieval.side_by_side import workers_for
from benchmark.retrieval.similarity import CosineSimilarity
from benchmark.retrieval.streamed import Streamed
from benchmark.retrieval.table import Table
from benchmark.retrieval.track_similarity import TrackSimilarity
from benchmark.retrieval.tracks import Tracks
from benchmark.retrieval.whole_rows import WholeRows

_LONG = 1_024
"""Dimensions from which on the product takes so long that its speed matters most."""
_IMAGE_BYTES = 4_096
"""What an image of a track counts for at least, where parts of the gallery are read: few images, for many queries."""


class Search:
    """Ranks the gallery for every query, and measures the rankings.

    Args:
        query: Its images, or some of them.
        gallery: All that is searched.
        protocol: How it is judged.
        precision: Of the products.
        positions: (Q,) int64: which gallery entries the queries are, where both are one list.

    Raises:
        ValueError: The two lists, or what is known of them, do not fit each other and the protocol.
    """

    def __init__(
        self,
        query: Embeddings,
        gallery: Embeddings,
        protocol: Protocol,
        precision: Precision = "float32",
        positions: Tensor | None = None,
    ) -> None:
        _require_fitting(query, gallery, protocol)
        self.protocol = protocol
        if protocol.expansion is not None:
            itself = None
            if protocol.query_in_gallery:
                itself = torch.arange(len(query), device=query.vectors.device) if positions is None else positions
            wider = protocol.expansion.expand(query.vectors, gallery.vectors, itself)
            query = replace(query, vectors=wider)
        tracks = Tracks(gallery) if protocol.tracks else None
        matching = Matching(query, gallery if tracks is None else tracks, protocol, positions)
        self.matching = matching
        workers = workers_for(query.vectors.device, precision)
        self._ranker: WholeRows | Streamed
        if protocol.reranking is not None:
            scores = protocol.reranking.similarity(query.vectors, gallery.vectors)
            if tracks is None:
                self._ranker = WholeRows(scores, matching, workers)
            else:
                best = TrackSimilarity(lambda rows, _: scores(rows), tracks, [slice(0, len(gallery))])
                self._ranker = WholeRows(best, matching, workers, query_bytes=best.query_bytes)
            return
        similarity = CosineSimilarity(query, gallery, precision)
        if tracks is not None:
            parts = list(chunks(len(gallery), max(4 * gallery.vectors.shape[1], _IMAGE_BYTES)))
            best = TrackSimilarity(similarity, tracks, parts)
            self._ranker = WholeRows(best, matching, workers, query_bytes=best.query_bytes + similarity.query_bytes)
        elif Streamed.suits(gallery.vectors):
            self._ranker = Streamed(similarity, matching, workers)
        elif MutualSimilarity.suits(similarity):
            rows = MutualSimilarity(similarity, workers)  # small chunks, as the whole is at hand
            self._ranker = WholeRows(rows, matching, workers, shared=1)
        else:
            self._ranker = _by_product(similarity, matching, workers)

    def measure(self, keep: int = 0) -> tuple[dict[str, Tensor], Neighbours | None]:
        """What `Scores` says of every query, on the CPU, and the first `keep` entries of every ranking."""
        if keep < 0:
            raise ValueError(f"keep: cannot keep {keep} entries of a list")
        table = Table(len(self.matching.query))

        def record(rows: slice, ranking: Ranking, first: Neighbours | None) -> None:
            table.write(
                rows,
                positives=ranking.positives,
                first_hit=first_hit(ranking),
                average_precision=average_precision(ranking, self.protocol.average_precision),
                inverse_negative_penalty=inverse_negative_penalty(ranking),
                r_precision=r_precision(ranking),
                average_precision_at_r=average_precision_at_r(ranking),
                precision_at=precision_at(ranking, self.protocol.recall_at),
            )
            if first is not None:
                table.write(rows, columns=first.columns, similarity=first.similarity, relation=first.relation)

        self._ranker.rank(record, keep)
        values = {name: column.cpu() for name, column in table.columns.items()}
        if not keep:
            return values, None
        return values, Neighbours(*(values.pop(name) for name in ("columns", "similarity", "relation")))

    def why_nothing(self) -> str:
        """Why no query has a correct answer."""
        if not self.matching.largest:
            return "in the gallery: no identity is in both lists"
        return "after the same-camera rule" if self.protocol.camera_rule else "besides themselves"


def _by_product(similarity: CosineSimilarity, matching: Matching, workers: int) -> WholeRows:
    if similarity.gallery.vectors.shape[1] < _LONG:  # scores are still in a core's cache when they are counted
        return WholeRows(similarity, matching, workers, query_bytes=similarity.query_bytes)
    # With more queries to a product, the gallery is read less often; and by all threads together, only once.
    return WholeRows(similarity, matching, workers=1, shared=4, counting=workers, query_bytes=similarity.query_bytes)


def _require_fitting(query: Embeddings, gallery: Embeddings, protocol: Protocol) -> None:
    if gallery.vectors.shape[1] != query.vectors.shape[1]:
        sizes = f"{query.vectors.shape[1]} and {gallery.vectors.shape[1]}"
        raise ValueError(f"query and gallery embeddings differ in size: {sizes}")
    for name, part in (("queries", query), ("gallery", gallery)):
        if protocol.camera_rule and part.cameras is None:
            raise ValueError(
                f"the protocol has a camera rule, but the {name} have no cameras: give them, or Protocol(camera_rule="
                "False)"
            )
