"""Queries that look for their matches in a gallery, by one protocol."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from threading import Lock

import torch
from torch import Tensor

from benchmark.retrieval import _chunks as chunks
from benchmark.retrieval._matching import Matches, Matching, Neighbours
from benchmark.retrieval._product import Precision
from benchmark.retrieval._ranking import (
    Ranking,
    Record,
    average_precision,
    average_precision_at_r,
    count_reaching,
    first_match_rank,
    inverse_negative_penalty,
    positive_thresholds,
    precision_at,
    r_precision,
)
from benchmark.retrieval._similarity import ROUNDING, CosineSimilarity
from benchmark.retrieval._tracks import Tracks, TrackSimilarity
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.reranking import MutualSimilarity
from benchmark.utils.parallel import TorchThreads


class Table:
    """Columns as long as the list of queries, into which chunks of them write.

    Small results kept one by one would come to lie between the large chunks in memory, and break it up.

    Args:
        queries: How many.
    """

    def __init__(self, queries: int) -> None:
        self.columns: dict[str, Tensor] = {}
        """By name, (Q,) or (Q, K)."""
        self._queries = queries
        self._lock = Lock()

    def write(self, rows: slice, **values: Tensor) -> None:
        """Set these rows of some columns. From any thread."""
        with self._lock:
            for name, value in values.items():
                if name not in self.columns:
                    self.columns[name] = value.new_empty(self._queries, *value.shape[1:])
                self.columns[name][rows] = value


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
        with TorchThreads(workers) as pool:  # one pool for all blocks, because each thread keeps some of its memory
            for rows in blocks:
                pool.map(lambda part: self._rank(part, record, keep), rows)

    def _rank(self, rows: slice, record: Record, keep: int) -> None:
        scores = self.scores(rows)
        neighbours = self._first(scores, rows, keep) if keep else None
        scores.index_fill_(1, self._junk, -torch.inf)
        matches, protocol = self.matching(rows), self.matching.protocol
        ranking = Ranking.from_scores(scores, matches, ROUNDING, protocol.ties, self.counting)
        record(rows, ranking, neighbours)

    def _first(self, scores: Tensor, rows: slice, keep: int) -> Neighbours:
        similarity, columns = scores.topk(min(keep, scores.shape[1]), dim=1)
        return Neighbours(columns, similarity, self.matching.relevance(rows, columns))


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
            negatives = torch.zeros_like(matches.gallery_index)
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
                    _ignore(scores, columns, matches.gallery_index[part])
                    negatives[part] += count_reaching(scores, thresholds[part], self.workers)
            neighbours = Neighbours(found, best, self.matching.relevance(rows, found)) if keep else None
            record(rows, Ranking.from_counts(negatives, matches), neighbours)

    def _thresholds(self, rows: slice, matches: Matches) -> Tensor:
        queries, width = matches.gallery_index.shape
        vector_bytes = 16 * self.similarity.gallery.vectors.shape[1]
        matched = torch.empty(queries, width, device=matches.gallery_index.device)
        for part in chunks.chunks(queries, vector_bytes * width):
            for some in chunks.chunks(width, vector_bytes * (part.stop - part.start)):
                matched[part, some] = self.similarity.pairs(_within(rows, part), matches.gallery_index[part, some])
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
        workers = _workers(query.vectors.device, precision)
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
            parts = list(chunks.chunks(len(gallery), max(4 * gallery.vectors.shape[1], _IMAGE_BYTES)))
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
                first_match_rank=first_match_rank(ranking),
                average_precision=average_precision(ranking, self.protocol.average_precision),
                inverse_negative_penalty=inverse_negative_penalty(ranking),
                r_precision=r_precision(ranking),
                average_precision_at_r=average_precision_at_r(ranking),
                precision_at=precision_at(ranking, self.protocol.recall_at),
            )
            if first is not None:
                table.write(
                    rows,
                    gallery_index=first.gallery_index,
                    similarity=first.similarity,
                    relevance=first.relevance,
                )

        self._ranker.rank(record, keep)
        values = {name: column.cpu() for name, column in table.columns.items()}
        if not keep:
            return values, None
        return values, Neighbours(*(values.pop(name) for name in ("gallery_index", "similarity", "relevance")))

    def no_match_reason(self) -> str:
        """Why no query has a correct answer."""
        if not self.matching.largest:
            return "in the gallery: no identity is in both lists"
        return "after the same-camera rule" if self.protocol.camera_rule else "besides themselves"


_MAX_WORKERS = 4
"""Chunks ranked at a time. With more, chunks take much memory, or are too small for a fast product."""


def _workers(device: torch.device, precision: str) -> int:
    return min(torch.get_num_threads(), _MAX_WORKERS) if device.type == "cpu" and precision == "float32" else 1


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
