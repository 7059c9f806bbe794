"""Search of a gallery by many queries: ranks the gallery for each query and measures the ranking."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from threading import Lock

import torch
from torch import Tensor

from benchmark.retrieval import _chunks
from benchmark.retrieval._matching import Matches, Matching
from benchmark.retrieval._ranking import (
    Ranking,
    average_precision,
    average_precision_at_r,
    count_reaching,
    first_match_rank,
    inverse_negative_penalty,
    positive_thresholds,
    precision_at,
    r_precision,
)
from benchmark.retrieval._similarity import TIE_TOLERANCE, CosineSimilarity, MutualSimilarity
from benchmark.retrieval._threads import TorchThreads
from benchmark.retrieval._tracks import Tracks, TrackSimilarity
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.scores import Neighbors

MATCH_BYTES = 120
"""Bytes per query and match: tables of gallery indices, thresholds, ranks and precisions."""
_MAX_WORKERS = 4
"""Chunks ranked at the same time. With more, chunks take much memory or are too small for a fast product."""
_LARGE_DIMENSION = 1_024
"""Dimension of embeddings from which the speed of the product matters most."""
_MIN_IMAGE_BYTES = 4_096
"""Minimum bytes per image when a gallery of tracks is split. Larger parts would leave memory for fewer queries."""
_PRODUCT_QUERIES = 256
"""Queries in one product of a streamed gallery. With far fewer, a product is slow."""

RankingCallback = Callable[[slice, Ranking, Neighbors | None], None]
"""Receives the ranking of some rows of the query list, and the first entries of the ranked lists if requested."""


class Search:
    """Ranks the gallery for every query, and measures the rankings.

    Args:
        query: Queries: a whole list, or a part of it.
        gallery: The whole gallery.
        protocol: Evaluation settings.
        positions: (Q,) int64 positions of the queries in the gallery, if the protocol has `query_in_gallery`. By
            default 0, 1, ...

    Raises:
        ValueError: Embedding sizes differ, or the protocol needs cameras or tracks that are missing.
    """

    def __init__(
        self, query: Embeddings, gallery: Embeddings, protocol: Protocol, positions: Tensor | None = None
    ) -> None:
        _require_compatible(query, gallery, protocol)
        self.protocol = protocol
        if protocol.expansion is not None:
            own = None
            if protocol.query_in_gallery:
                own = torch.arange(len(query), device=query.vectors.device) if positions is None else positions
            query = replace(query, vectors=protocol.expansion.expand(query.vectors, gallery.vectors, own))
        tracks = Tracks(gallery) if protocol.tracks else None
        self.matching = Matching(query, gallery if tracks is None else tracks, protocol, positions)
        self._ranker = _make_ranker(query, gallery, tracks, self.matching)

    def measure(self, keep: int = 0) -> tuple[dict[str, Tensor], Neighbors | None]:
        """Measure the rankings of all queries.

        Args:
            keep: Number of first entries of every ranked list to return.

        Returns:
            The per-query fields of `Scores` by name, on the CPU, and the first entries; None if `keep` is 0.
        """
        if keep < 0:
            raise ValueError(f"keep must be at least 0, not {keep}")
        results = ResultBuffer(len(self.matching.query))

        def record(rows: slice, ranking: Ranking, first: Neighbors | None) -> None:
            results.write(
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
                results.write(
                    rows,
                    gallery_index=first.gallery_index,
                    similarity=first.similarity,
                    relevance=first.relevance,
                )

        self._ranker.rank(record, keep)
        values = {name: column.cpu() for name, column in results.columns.items()}
        if not keep:
            return values, None
        return values, Neighbors(*(values.pop(name) for name in ("gallery_index", "similarity", "relevance")))

    def no_match_reason(self) -> str:
        """Return why no query has a correct match."""
        if not self.matching.max_matches:
            never_matched = self.protocol.junk + self.protocol.distractors
            return "no identity is in both lists" + (" except junk and distractors" if never_matched else "")
        if self.protocol.camera_rule:
            return "the camera rule ignores every gallery image of their identities"
        return "no identity has two images"


class ResultBuffer:
    """Results of all queries, preallocated and written in chunks of queries by any thread.

    Keeping a separate tensor for each chunk would place small tensors between the large temporary ones, which would
    fragment the memory.

    Args:
        queries: Number of queries.
    """

    def __init__(self, queries: int) -> None:
        self.columns: dict[str, Tensor] = {}
        """(Q,) or (Q, K) results by name."""
        self._queries = queries
        self._lock = Lock()

    def write(self, rows: slice, **values: Tensor) -> None:
        """Set some rows of some columns."""
        with self._lock:
            for name, value in values.items():
                if name not in self.columns:
                    self.columns[name] = value.new_empty(self._queries, *value.shape[1:])
                self.columns[name][rows] = value


def _make_ranker(
    query: Embeddings, gallery: Embeddings, tracks: Tracks | None, matching: Matching
) -> "_RowRanker | _StreamRanker":
    """Return the fastest way to rank lists of these sizes in bounded memory."""
    on_cpu = query.vectors.device.type == "cpu"
    workers = min(torch.get_num_threads(), _MAX_WORKERS) if on_cpu else 1
    if matching.protocol.reranking is not None:
        scores = matching.protocol.reranking.similarity(query.vectors, gallery.vectors)
        if tracks is None:
            return _RowRanker(scores, matching, workers)
        best = TrackSimilarity(lambda rows, _: scores(rows), tracks, [slice(0, len(gallery))])
        return _RowRanker(best, matching, workers, query_bytes=best.query_bytes)
    similarity = CosineSimilarity(query, gallery)
    if tracks is not None:
        parts = list(_chunks.chunks(len(gallery), max(4 * gallery.vectors.shape[1], _MIN_IMAGE_BYTES)))
        best = TrackSimilarity(similarity, tracks, parts)
        return _RowRanker(best, matching, workers, query_bytes=best.query_bytes + similarity.query_bytes)
    if _StreamRanker.is_suitable(gallery.vectors):
        return _StreamRanker(similarity, matching, workers)
    if MutualSimilarity.is_suitable(similarity):
        # One chunk for all workers together, because all scores are in memory already.
        return _RowRanker(MutualSimilarity(similarity, workers), matching, workers, max_chunks=1)
    if gallery.vectors.shape[1] < _LARGE_DIMENSION:
        # Every worker multiplies a small chunk, whose scores are still in its core's cache when they are counted.
        return _RowRanker(similarity, matching, workers, query_bytes=similarity.query_bytes)
    # All threads multiply one large chunk together, so that the gallery is read once for many queries.
    return _RowRanker(
        similarity, matching, workers=1, max_chunks=4, counting_workers=workers, query_bytes=similarity.query_bytes
    )


class _RowRanker:
    """Ranks the whole gallery for a chunk of queries at a time.

    Args:
        scores: Maps some rows of the query list to (rows, G) float32 scores of gallery images or tracks.
        matching: Finds the matches of the queries.
        workers: Number of chunks ranked at the same time.
        max_chunks: Number of chunks of memory that the scores of these may occupy together; see `_chunks.chunks`.
        counting_workers: Number of threads that count within one chunk.
        query_bytes: Bytes allocated per query to compute its scores.
    """

    def __init__(
        self,
        scores: Callable[[slice], Tensor],
        matching: Matching,
        workers: int,
        *,
        max_chunks: int | None = None,
        counting_workers: int = 1,
        query_bytes: int = 0,
    ) -> None:
        self._scores = scores
        self._matching = matching
        self._junk = matching.junk(slice(None))
        self._workers = workers
        self._max_chunks = max_chunks
        self._counting_workers = counting_workers
        self._query_bytes = query_bytes

    def rank(self, record: RankingCallback, keep: int) -> None:
        """Pass the ranking of every query, and the first `keep` entries of its list, to `record`."""
        matching = self._matching
        # On other devices than the CPU, scores are sorted by torch, which copies them and makes int64 indices.
        entry_bytes = 4 if matching.query.vectors.device.type == "cpu" else 20
        row_bytes = entry_bytes * len(matching.gallery) + MATCH_BYTES * matching.max_matches + self._query_bytes
        # If there are many parts, every thread holds on to more of the memory that it has freed.
        max_chunks = self._max_chunks if len(matching.parts) == 1 else 1
        workers = min(self._workers, len(matching.query))
        with TorchThreads(workers) as threads:  # for all parts, because new threads would allocate memory again
            for blocks in matching.blocks(row_bytes, self._workers, max_chunks):
                threads.map(lambda rows: self._rank(rows, record, keep), blocks)

    def _rank(self, rows: slice, record: RankingCallback, keep: int) -> None:
        scores = self._scores(rows)
        first = self._first(scores, rows, keep) if keep else None
        scores.index_fill_(1, self._junk, -torch.inf)
        matches, ties = self._matching(rows), self._matching.protocol.ties
        record(rows, Ranking.from_scores(scores, matches, TIE_TOLERANCE, ties, self._counting_workers), first)

    def _first(self, scores: Tensor, rows: slice, keep: int) -> Neighbors:
        similarity, gallery_index = scores.topk(min(keep, scores.shape[1]), dim=1)
        return Neighbors(gallery_index, similarity, self._matching.relevance(rows, gallery_index))


class _StreamRanker:
    """Ranks a gallery of any size, such as a memory-mapped file, which is read once for many thousand queries.

    First scores the positives, pair by pair. Then counts the negatives that rank before them, in one part of the
    gallery after the other.

    Args:
        similarity: Similarity of parts of the two lists.
        matching: Finds the matches of the queries.
        workers: Number of threads that count.
    """

    def __init__(self, similarity: CosineSimilarity, matching: Matching, workers: int) -> None:
        self._similarity = similarity
        self._matching = matching
        self._workers = workers

    @staticmethod
    def is_suitable(gallery: Tensor) -> bool:
        """Return whether (G, D) vectors are too many for whole rows of scores, or too large to be read repeatedly."""
        few_rows = _chunks.CHUNK_BYTES // (4 * len(gallery)) < _PRODUCT_QUERIES // 2
        is_converted = gallery.dtype != torch.float32 and 4 * gallery.numel() > _chunks.CHUNK_BYTES
        return few_rows or is_converted or gallery.nbytes > 64 * _chunks.CHUNK_BYTES

    def rank(self, record: RankingCallback, keep: int) -> None:
        """Pass the ranking of every query, and the first `keep` entries of its list, to `record`."""
        matching = self._matching
        images, dimension = self._similarity.gallery.vectors.shape
        keep = min(keep, images)
        scores: Tensor | None = None
        for rows in chain.from_iterable(matching.blocks(MATCH_BYTES * max(1, matching.max_matches))):
            matches = matching(rows)
            thresholds = self._thresholds(rows, matches)
            negatives = torch.zeros_like(matches.gallery_index)
            best = torch.full((len(negatives), keep), -torch.inf, device=negatives.device)
            best_index = torch.zeros_like(best, dtype=torch.int64)
            for gallery_part in _chunks.chunks(images, 4 * max(dimension, _PRODUCT_QUERIES)):
                junk = matching.junk(gallery_part)
                for part in _chunks.chunks(len(negatives), 4 * (gallery_part.stop - gallery_part.start)):
                    # Freed right before the next allocation of this size. Otherwise small tensors take its place.
                    scores = None
                    scores = self._similarity(_within(rows, part), gallery_part)
                    if keep:
                        best[part], best_index[part] = _merge_first(
                            best[part], best_index[part], scores, gallery_part.start
                        )
                    scores.index_fill_(1, junk, -torch.inf)
                    _mask_matches(scores, gallery_part, matches.gallery_index[part])
                    negatives[part] += count_reaching(scores, thresholds[part], self._workers)
            first = Neighbors(best_index, best, matching.relevance(rows, best_index)) if keep else None
            record(rows, Ranking.from_counts(negatives, matches), first)

    def _thresholds(self, rows: slice, matches: Matches) -> Tensor:
        queries, width = matches.gallery_index.shape
        # The vectors of matches may take a quarter of a chunk, because the match tables are in memory too.
        vector_bytes = 4 * 4 * self._similarity.gallery.vectors.shape[1]
        matched = torch.empty(queries, width, device=matches.gallery_index.device)
        for part in _chunks.chunks(queries, vector_bytes * width):
            for columns in _chunks.chunks(width, vector_bytes * (part.stop - part.start)):
                gallery_index = matches.gallery_index[part, columns]
                matched[part, columns] = self._similarity.pairs(_within(rows, part), gallery_index)
        return positive_thresholds(matched, matches, TIE_TOLERANCE, self._matching.protocol.ties)


def _within(rows: slice, part: slice) -> slice:
    return slice(rows.start + part.start, rows.start + part.stop)


def _merge_first(best: Tensor, best_index: Tensor, scores: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Merge the best scores so far with those of the gallery entries from `start` on, keeping as many as before."""
    keep = best.shape[1]
    similarity, local_index = scores.topk(min(keep, scores.shape[1]), dim=1)
    best, order = torch.cat([best, similarity], dim=1).sort(dim=1, descending=True, stable=True)
    return best[:, :keep], torch.cat([best_index, local_index + start], dim=1).gather(1, order[:, :keep])


def _mask_matches(scores: Tensor, gallery_part: slice, matched: Tensor) -> None:
    """Set the scores of matches in this part of the gallery to minus infinity, so that only negatives are counted."""
    width = scores.shape[1]
    local_index = matched - gallery_part.start
    mask = torch.full_like(local_index, torch.inf, dtype=scores.dtype)
    mask.masked_fill_((local_index >= 0) & (local_index < width), -torch.inf)
    scores.scatter_reduce_(1, local_index.clamp(0, width - 1), mask, "amin")


def _require_compatible(query: Embeddings, gallery: Embeddings, protocol: Protocol) -> None:
    if gallery.vectors.shape[1] != query.vectors.shape[1]:
        sizes = f"{query.vectors.shape[1]} and {gallery.vectors.shape[1]}"
        raise ValueError(f"query and gallery embeddings differ in size: {sizes}")
    for name, part in (("queries", query), ("gallery", gallery)):
        if protocol.camera_rule and part.cameras is None:
            raise ValueError(
                f"the protocol has a camera rule, but the {name} have no cameras: pass Embeddings(..., cameras=), or "
                "use Protocol(camera_rule=False)"
            )
