"""Ranking by all scores of some queries at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.retrieval.matching import Matching
from benchmark.retrieval.neighbours import Neighbours
from benchmark.retrieval.ranking import Ranking, Record
from benchmark.retrieval.side_by_side import in_turn
from benchmark.retrieval.similarity import ROUNDING

MATCH_BYTES = 120
"""What the tables of columns, thresholds, ranks and precisions occupy per query and match."""


class WholeRows:
    """Ranks the gallery for some queries by one product, or by whatever else gives their scores.

    Args:
        scores: Rows of the query list -> their (rows, G) float32 scores of gallery images, or tracks.
        matching: Which answers are correct.
        workers: How many chunks of queries are ranked at a time.
        shared: How many chunks the scores of these may occupy together, if not as usual.
        counting: How many threads work on one chunk once its scores are known.
        query_bytes: What is copied of each query to get its scores.
    """

    def __init__(
        self,
        scores: Callable[[slice], Tensor],
        matching: Matching,
        workers: int,
        shared: int | None = None,
        counting: int = 1,
        query_bytes: int = 0,
    ) -> None:
        self.scores = scores
        self.matching = matching
        self._junk = matching.junk(slice(None))
        self.workers = workers
        self.shared = shared
        self.counting = counting
        self.query_bytes = query_bytes

    def rank(self, record: Record, keep: int) -> None:
        """Record the ranking of every query, and the first `keep` entries of it."""
        on_cpu = self.matching.query.vectors.device.type == "cpu"
        entry = 4 if on_cpu else 20  # a sort beside the CPU makes a copy and indices
        row_bytes = entry * len(self.matching.gallery) + MATCH_BYTES * self.matching.largest + self.query_bytes
        shared = self.shared if len(self.matching.parts) == 1 else 1  # over many chunks, threads keep more that is free
        blocks = self.matching.blocks(row_bytes, self.workers, shared)
        workers = min(self.workers, len(self.matching.query))
        in_turn(lambda rows: self._rank(rows, record, keep), blocks, workers)

    def _rank(self, rows: slice, record: Record, keep: int) -> None:
        scores = self.scores(rows)
        neighbours = self._first(scores, rows, keep) if keep else None
        scores.index_fill_(1, self._junk, -torch.inf)
        matches, protocol = self.matching(rows), self.matching.protocol
        ranking = Ranking.from_scores(scores, matches, ROUNDING, protocol.ties, self.counting)
        record(rows, ranking, neighbours)

    def _first(self, scores: Tensor, rows: slice, keep: int) -> Neighbours:
        similarity, columns = scores.topk(min(keep, scores.shape[1]), dim=1)
        return Neighbours(columns, similarity, self.matching.relation(rows, columns))
