"""Ranking a gallery that is read in parts."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmark.retrieval import chunks
from benchmark.retrieval.counting import count_reaching
from benchmark.retrieval.matches import Matches
from benchmark.retrieval.matching import Matching
from benchmark.retrieval.neighbours import Neighbours
from benchmark.retrieval.ranking import Ranking, positive_thresholds
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
    """

    def __init__(self, similarity: CosineSimilarity, matching: Matching) -> None:
        self.similarity = similarity
        self.matching = matching

    @staticmethod
    def suits(gallery: Tensor) -> bool:
        """Whether (G, D) vectors are too many for whole rows of scores, or too large to be read often."""
        few = chunks.CHUNK_BYTES // (4 * len(gallery)) < _QUERIES // 4
        return few or gallery.nbytes > 64 * chunks.CHUNK_BYTES

    def blocks(self) -> Iterator[slice]:
        """Parts of the query list, for each of which the gallery is read once."""
        return chunks.chunks(len(self.matching.query), MATCH_BYTES * max(1, self.matching.largest))

    def rank(self, rows: slice, keep: int) -> tuple[Ranking, Neighbours | None]:
        """The ranking of these queries, and the first `keep` entries of it."""
        matches = self.matching(rows)
        thresholds = self._thresholds(rows, matches)
        negatives = torch.zeros_like(matches.columns)
        images, size = self.similarity.gallery.shape
        best = thresholds.new_empty(len(negatives), 0)
        found = matches.columns.new_empty(len(negatives), 0)
        for columns in chunks.chunks(images, 4 * max(size, _QUERIES)):
            firsts = []
            for part in chunks.chunks(len(negatives), 4 * (columns.stop - columns.start)):
                scores = self.similarity(_within(rows, part), columns)
                if keep:
                    firsts.append(_first(best[part], found[part], scores, columns.start, keep))
                self._ignore(scores, columns, matches.columns[part])
                negatives[part] += count_reaching(scores, thresholds[part])
            if keep:
                best, found = (torch.cat(column) for column in zip(*firsts, strict=True))
        neighbours = None
        if keep:
            neighbours = Neighbours(found.cpu(), best.cpu(), self.matching.relation(rows, found).cpu())
        return Ranking.from_counts(negatives, matches), neighbours

    def _thresholds(self, rows: slice, matches: Matches) -> Tensor:
        queries, width = matches.columns.shape
        pair_bytes = 4 * width * max(1, self.similarity.gallery.shape[1])
        parts = chunks.chunks(queries, pair_bytes)
        matched = [self.similarity.pairs(_within(rows, part), matches.columns[part]) for part in parts]
        return positive_thresholds(torch.cat(matched), matches, ROUNDING, self.matching.protocol.ties)

    def _ignore(self, scores: Tensor, columns: slice, matched: Tensor) -> None:
        """Take what is no negative out of the scores of this part of the gallery."""
        width = scores.shape[1]
        local = matched - columns.start
        outside = torch.full_like(local, torch.inf, dtype=scores.dtype)
        outside.masked_fill_((local >= 0) & (local < width), -torch.inf)
        scores.scatter_reduce_(1, local.clamp(0, width - 1), outside, "amin")
        junk = self.matching.junk - columns.start
        scores.index_fill_(1, junk[(junk >= 0) & (junk < width)], -torch.inf)


def _within(rows: slice, part: slice) -> slice:
    return slice(rows.start + part.start, rows.start + part.stop)


def _first(best: Tensor, found: Tensor, scores: Tensor, start: int, keep: int) -> tuple[Tensor, Tensor]:
    """The first `keep` of those found so far, and of the scores of gallery entries from `start` on."""
    more, columns = scores.topk(min(keep, scores.shape[1]), dim=1)
    best, chosen = torch.cat([best, more], dim=1).sort(dim=1, descending=True, stable=True)
    return best[:, :keep], torch.cat([found, columns + start], dim=1).gather(1, chosen[:, :keep])
