"""Lookup of the gallery entries that match each query."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.retrieval import _chunks
from benchmark.retrieval._tracks import Tracks
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.protocol import Protocol

_UNSPLIT_BYTES_PER_MATCH = 64
"""Bytes of sorted positions, per match of the query with most matches, up to which no part of the queries is split.

Applies where it is more than a chunk. The match tables of that query alone take about twice as much (`MATCH_BYTES`).
"""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """The gallery entries that share the identity of each of Q queries.

    Entries that a protocol ignores (same identity and camera, the query itself) share the query's identity. So these
    are the query's positives and ignored entries, and all other gallery entries are negatives.
    """

    gallery_index: Tensor
    """(Q, M) int64 positions in the gallery. Rows with fewer than M entries are padded by repeating one."""
    positive: Tensor
    """(Q, M) bool: whether the entry is a correct match; false for ignored entries and padding."""


class Matching:
    """Finds the matches of queries in a gallery sorted by identity, without comparing all pairs of labels.

    A long list of queries is processed in parts, so that the sorted gallery positions of one part fit into a chunk.

    Args:
        query: Queries with their labels.
        gallery: Gallery images or tracks with their labels.
        protocol: Defines which entries are positives and which are ignored.
        positions: (Q,) int64 positions of the queries in the gallery, if the protocol has `query_in_gallery`. By
            default 0, 1, ...
    """

    def __init__(
        self, query: Embeddings, gallery: Embeddings | Tracks, protocol: Protocol, positions: Tensor | None = None
    ) -> None:
        self.query = query
        self.gallery = gallery
        self.protocol = protocol
        device = query.identities.device
        self._never_matched = torch.tensor(protocol.junk + protocol.distractors, dtype=torch.int64, device=device)
        self._junk = self._never_matched[: len(protocol.junk)]
        self._positions = positions
        self.parts: list[slice] = []
        """Consecutive parts of the query list that are looked up one at a time."""
        self.max_matches = 0
        """Largest number of gallery entries that share the identity of one query; 0 if no identity is in both lists.

        Does not count junk and distractors. If several processes share the queries, this must be set to the maximum
        over all processes.
        """
        self._part = slice(0, 0)
        self._gallery: _IdentityIndex
        """Index of the gallery entries that match queries of the current part."""
        self._split()

    def blocks(self, row_bytes: int, workers: int = 1, max_chunks: int | None = None) -> Iterator[list[slice]]:
        """Yield one list of slices per part; together they cover the query list.

        The matches of a slice are available until the next list is requested.

        Args:
            row_bytes: Bytes per query; see `_chunks.chunks` for this and the other arguments.
            workers: Number of slices processed at the same time.
            max_chunks: Number of chunks that these slices may occupy together.
        """
        for part in self.parts:
            if part != self._part:
                self._part = part
                self._gallery = _IdentityIndex(self.gallery.identities, *self._count_matches(part))
            blocks = _chunks.chunks(part.stop - part.start, row_bytes, workers, max_chunks)
            yield [slice(part.start + rows.start, part.start + rows.stop) for rows in blocks]

    def __call__(self, rows: slice) -> Matches:
        """Return the matches of some queries, which must be in the current part of `blocks`.

        The result has `max_matches` columns for any rows: the width of the tables determines the order in which
        precisions are summed, and so the last digit of the sum.

        Raises:
            ValueError: The rows are in another part.
        """
        if rows.start < self._part.start or rows.stop > self._part.stop:
            raise ValueError(
                f"queries {rows.start} to {rows.stop} are outside the current part, {self._part.start} to "
                f"{self._part.stop}: take rows from `blocks`"
            )
        start, count = (part[:, None] for part in self._gallery.find(self.query.identities[rows]))
        offset = torch.arange(max(1, self.max_matches), device=count.device)
        gallery_index = self._gallery.positions[start + offset.minimum(count - 1).clamp_min_(0)]
        positive = offset < count
        if self.protocol.camera_rule:
            positive &= ~self._same_camera(rows, gallery_index)
        if self.protocol.query_in_gallery:
            positive &= gallery_index != self._own_position(rows)
        return Matches(gallery_index, positive)

    def junk(self, gallery_part: slice) -> Tensor:
        """Return the (J,) int64 positions, within a part of the gallery, of entries ignored for every query."""
        return torch.isin(self.gallery.identities[gallery_part], self._junk).nonzero().flatten()

    def relevance(self, rows: slice, gallery_index: Tensor) -> Tensor:
        """Classify gallery entries as positive, negative or ignored.

        Args:
            rows: R queries.
            gallery_index: (R, K) int64 positions in the gallery.

        Returns:
            (R, K) int8: 1 for a correct match, 0 for a negative, -1 for an ignored entry.
        """
        entry_identity, query_identity = self.gallery.identities[gallery_index], self.query.identities[rows, None]
        same = entry_identity == query_identity
        ignored = torch.isin(entry_identity, self._junk)
        if self.protocol.camera_rule:
            ignored |= same & self._same_camera(rows, gallery_index)
        if self.protocol.query_in_gallery:
            ignored |= gallery_index == self._own_position(rows)
        return (same & ~torch.isin(query_identity, self._never_matched)).to(torch.int8).masked_fill(ignored, -1)

    def _own_position(self, rows: slice) -> Tensor:
        if self._positions is not None:
            return self._positions[rows, None]
        return torch.arange(rows.start, rows.stop, device=self.query.identities.device)[:, None]

    def _same_camera(self, rows: slice, gallery_index: Tensor) -> Tensor:
        gallery, query = self.gallery.cameras, self.query.cameras
        assert gallery is not None and query is not None  # checked by `Search`
        return gallery[gallery_index] == query[rows, None]

    def _split(self) -> None:
        """Split the query list into parts, halving a part whose matches take too much memory."""
        pending = list(_chunks.chunks(len(self.query), _chunks.LABEL_BYTES))[::-1]
        while pending:
            part = pending.pop()
            identities, count = self._count_matches(part)
            most = int(count.max()) if len(count) else 0
            if 8 * int(count.sum()) > max(_chunks.CHUNK_BYTES, _UNSPLIT_BYTES_PER_MATCH * most):
                middle = (part.start + part.stop) // 2
                pending += slice(middle, part.stop), slice(part.start, middle)
            else:
                self.parts.append(part)
                self.max_matches = max(self.max_matches, most)
        if len(self.parts) == 1:
            self._part, self._gallery = part, _IdentityIndex(self.gallery.identities, identities, count)

    def _count_matches(self, part: slice) -> tuple[Tensor, Tensor]:
        """Return the matchable identities of some queries, ascending, and their numbers of gallery entries: (U,) int64.

        Junk and distractor identities are left out.
        """
        identities = self.query.identities[part].unique()
        identities = identities[~torch.isin(identities, self._never_matched)]
        count = torch.zeros_like(identities)
        for _, group in _find_entries(self.gallery.identities, identities):
            count.index_add_(0, group, torch.ones_like(group))
        return identities, count


class _IdentityIndex:
    """Positions of the gallery entries of selected identities, grouped by identity.

    Takes 8 bytes for each of these entries and 16 bytes per selected identity; nothing for other entries.

    Args:
        identities: (G,) int64 identities of the gallery.
        selected: (U,) int64 selected identities, ascending. Not copied.
        count: (U,) int64 number of gallery entries of each selected identity. Not copied.
    """

    def __init__(self, identities: Tensor, selected: Tensor, count: Tensor) -> None:
        self._selected = selected
        self._count = count
        self.positions = selected.new_zeros(int(count.sum()) + 1)
        """(W + 1,) int64 positions in the gallery, one identity after the other; then position 0 as padding."""
        self._end = count.cumsum(0).sub_(count)  # of the entries written so far
        for position, group in _find_entries(identities, selected):
            group, order = group.sort(stable=True)
            rank = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
            self.positions[self._end[group] + rank] = position[order]
            self._end.index_add_(0, group, torch.ones_like(group))

    def find(self, identities: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the entries of (N,) identities start in `positions`, and their number: (N,) int64 both.

        The number is 0 for identities that are not selected.
        """
        if not len(self._selected):
            return torch.zeros_like(identities), torch.zeros_like(identities)
        group, is_selected = _lookup(identities, self._selected)
        count = self._count[group]
        return self._end[group] - count, count.masked_fill_(~is_selected, 0)


def _find_entries(identities: Tensor, selected: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for one chunk of a list at a time, the positions of entries of selected identities.

    Yields:
        (N,) int64 positions in the list, and (N,) int64 positions of their identities in `selected`.
    """
    if not len(selected):
        return
    for part in _chunks.chunks(len(identities), _chunks.LABEL_BYTES):
        group, is_selected = _lookup(identities[part], selected)
        position = is_selected.nonzero().flatten()
        yield position + part.start, group[position]


def _lookup(identities: Tensor, selected: Tensor) -> tuple[Tensor, Tensor]:
    """Return the position of each identity in ascending `selected`, and whether it is there."""
    group = torch.searchsorted(selected, identities).clamp_max_(len(selected) - 1)
    return group, selected[group] == identities
