"""Ranking by all scores of some queries at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.retrieval.chunks import chunks
from benchmark.retrieval.matching import Matching
from benchmark.retrieval.neighbours import Neighbours
from benchmark.retrieval.ranking import Ranking, Record
from benchmark.retrieval.side_by_side import side_by_side
from benchmark.retrieval.similarity import ROUNDING
from benchmark.retrieval.tracks import Tracks

MATCH_BYTES = 120
"""What the tables of columns, thresholds, ranks and precisions occupy per query and match."""


class WholeRows:
    """Ranks the gallery for some queries by one product, or by whatever else gives their scores.

    Args:
        scores: Rows of the query list -> their (rows, G) float32 scores of gallery images.
        images: G.
        matching: Which answers are correct.
        tracks: What is ranked instead of images, if not they.
        workers: How many chunks of queries are ranked at a time.
        shared: How many chunks the scores of these may occupy together, if not as usual.
        counting: How many threads work on one chunk once its scores are known.
        query_bytes: What is copied of each query to get its scores.
    """

    def __init__(
        self,
        scores: Callable[[slice], Tensor],
        images: int,
        matching: Matching,
        tracks: Tracks | None,
        workers: int,
        shared: int | None = None,
        counting: int = 1,
        query_bytes: int = 0,
    ) -> None:
        self.scores = scores
        self.images = images
        self.matching = matching
        self.tracks = tracks
        self.workers = workers
        self.shared = shared
        self.counting = counting
        self.query_bytes = query_bytes

    def rank(self, record: Record, keep: int) -> None:
        """Record the ranking of every query, and the first `keep` entries of it."""
        on_cpu = self.matching.query.vectors.device.type == "cpu"
        entry = 4 if on_cpu else 20  # a sort beside the CPU makes a copy and indices
        # What is ranked instead of images, and which image belongs to it, written out for every query.
        tracks = 0 if self.tracks is None else entry * len(self.tracks) + 8 * self.images
        row_bytes = entry * self.images + tracks + MATCH_BYTES * self.matching.largest + self.query_bytes
        blocks = list(chunks(len(self.matching.query), row_bytes, self.workers, self.shared))
        side_by_side(lambda rows: self._rank(rows, record, keep), blocks, self.workers)

    def _rank(self, rows: slice, record: Record, keep: int) -> None:
        scores = self.scores(rows)
        if self.tracks is not None:
            scores = self.tracks.best(scores)
        neighbours = self._first(scores, rows, keep) if keep else None
        scores.index_fill_(1, self.matching.junk, -torch.inf)
        matches, protocol = self.matching(rows), self.matching.protocol
        ranking = Ranking.from_scores(scores, matches, ROUNDING, protocol.ties, self.counting)
        record(rows, ranking, neighbours)

    def _first(self, scores: Tensor, rows: slice, keep: int) -> Neighbours:
        similarity, columns = scores.topk(min(keep, scores.shape[1]), dim=1)
        return Neighbours(columns, similarity, self.matching.relation(rows, columns))
