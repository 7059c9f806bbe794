"""Ranking a gallery that is read in parts."""

from itertools import chain

import torch
from torch import Tensor

from benchmark.retrieval import chunks
from benchmark.retrieval.counting import count_reaching
from benchmark.retrieval.matches import Matches
from benchmark.retrieval.matching import Matching
from benchmark.retrieval.neighbours import Neighbours
from benchmark.retrieval.ranking import Ranking, Record, positive_thresholds
from benchmark.retrieval.similarity import ROUNDING, CosineSimilarity
from benchmark.retrieval.whole_rows import MATCH_BYTES

_QUERIES = 256
"""Queries in a product; with many fewer it is slow."""


class Streamed:
    """Ranks a gallery of any size, such as one in a mapped file, reading it once for many thousand queries.

    The positives are scored first, pair by pair. Then the negatives that stand before them are counted, one part of the
    gallery after the other.

    Args:
        similarity: Of any part of the two lists.
        matching: Which answers are correct.
        workers: How many threads count the negatives.
    """

    def __init__(self, similarity: CosineSimilarity, matching: Matching, workers: int) -> None:
        self.similarity = similarity
        self.matching = matching
        self.workers = workers

    @staticmethod
    def suits(gallery: Tensor) -> bool:
        """Whether (G, D) vectors are too many for whole rows of scores, or too large to be read or converted often."""
        few = chunks.CHUNK_BYTES // (4 * len(gallery)) < _QUERIES // 2
        converted = gallery.dtype != torch.float32 and 4 * gallery.numel() > chunks.CHUNK_BYTES
        return few or converted or gallery.nbytes > 64 * chunks.CHUNK_BYTES

    def rank(self, record: Record, keep: int) -> None:
        """Record the ranking of every query, and the first `keep` entries of it.

        For each block of the query list, the gallery is read once.
        """
        images, size = self.similarity.gallery.vectors.shape
        keep = min(keep, images)
        scores: Tensor | None = None
        for rows in chain.from_iterable(self.matching.blocks(MATCH_BYTES * max(1, self.matching.largest))):
            matches = self.matching(rows)
            thresholds = self._thresholds(rows, matches)
            negatives = torch.zeros_like(matches.columns)
            best = torch.full((len(negatives), keep), -torch.inf, device=negatives.device)
            found = torch.zeros_like(best, dtype=torch.int64)
            for columns in chunks.chunks(images, 4 * max(size, _QUERIES)):
                junk = self.matching.junk(columns)
                for part in chunks.chunks(len(negatives), 4 * (columns.stop - columns.start)):
                    # Freed just before as many come, or small tensors would take their place in memory, for long.
                    scores = None
                    scores = self.similarity(_within(rows, part), columns)
                    if keep:
                        best[part], found[part] = _first(best[part], found[part], scores, columns.start)
                    scores.index_fill_(1, junk, -torch.inf)
                    _ignore(scores, columns, matches.columns[part])
                    negatives[part] += count_reaching(scores, thresholds[part], self.workers)
            neighbours = Neighbours(found, best, self.matching.relation(rows, found)) if keep else None
            record(rows, Ranking.from_counts(negatives, matches), neighbours)

    def _thresholds(self, rows: slice, matches: Matches) -> Tensor:
        queries, width = matches.columns.shape
        vector_bytes = 16 * self.similarity.gallery.vectors.shape[1]
        matched = torch.empty(queries, width, device=matches.columns.device)
        for part in chunks.chunks(queries, vector_bytes * width):
            for some in chunks.chunks(width, vector_bytes * (part.stop - part.start)):
                matched[part, some] = self.similarity.pairs(_within(rows, part), matches.columns[part, some])
        return positive_thresholds(matched, matches, ROUNDING, self.matching.protocol.ties)


def _ignore(scores: Tensor, columns: slice, matched: Tensor) -> None:
    """Take the matches out of the scores of this part of the gallery: none of them is a negative."""
    width = scores.shape[1]
    local = matched - columns.start
    outside = torch.full_like(local, torch.inf, dtype=scores.dtype)
    outside.masked_fill_((local >= 0) & (local < width), -torch.inf)
    scores.scatter_reduce_(1, local.clamp(0, width - 1), outside, "amin")


def _within(rows: slice, part: slice) -> slice:
    return slice(rows.start + part.start, rows.start + part.stop)


def _first(best: Tensor, found: Tensor, scores: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """The best of those found so far, and of the scores of gallery entries from `start` on: as many as before."""
    keep = best.shape[1]
    more, columns = scores.topk(min(keep, scores.shape[1]), dim=1)
    best, chosen = torch.cat([best, more], dim=1).sort(dim=1, descending=True, stable=True)
    return best[:, :keep], torch.cat([found, columns + start], dim=1).gather(1, chosen[:, :keep])
