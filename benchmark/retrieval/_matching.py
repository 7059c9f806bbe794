"""Finding the correct answers of each query under a protocol."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.retrieval import _chunks as chunks
from benchmark.retrieval._tracks import Tracks
from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.protocol import Protocol


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Gallery entries with the identity of each of Q queries.

    Whatever a protocol ignores (same identity and camera, the query itself) shares the query's identity. So these
    entries are the positives and the ignored ones, and every other gallery entry is a negative.
    """

    gallery_index: Tensor
    """(Q, M) int64 positions in the gallery. Rows with fewer than M entries are padded by repeating one."""
    positive: Tensor
    """(Q, M) bool: a correct answer; false where ignored and for padding."""


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The K gallery entries most similar to each of Q queries, the most similar first.

    What the protocol ignores is among them, and marked.
    """

    gallery_index: Tensor
    """(Q, K) int64 positions in the gallery (of tracks, where those are ranked)."""
    similarity: Tensor
    """(Q, K) float32; minus the distance where the list was re-ranked."""
    relevance: Tensor
    """(Q, K) int8: 1 for a correct answer, 0 for a wrong one, -1 for what the protocol ignores."""

    def __post_init__(self) -> None:
        if (
            not self.gallery_index.shape == self.similarity.shape == self.relevance.shape
            or self.gallery_index.ndim != 2
        ):
            raise ValueError("gallery_index, similarity and relevance of neighbours must be (Q, K) alike")
        if (self.similarity.diff(dim=1) > 0).any():
            raise ValueError("neighbours must come in the order of their similarity")
        if not torch.isin(self.relevance, self.relevance.new_tensor([-1, 0, 1])).all():
            raise ValueError("relevance of neighbours must be -1, 0 or 1")

    def __len__(self) -> int:
        return len(self.gallery_index)


class ByIdentity:
    """A list sorted by identity, as far as its identities are asked for.

    Takes eight bytes for each entry of an identity that is wanted, and 16 for each of these identities; nothing for
    other entries.

    Args:
        identities: (G,) int64.
        wanted: (U,) int64: those that are asked for, ascending. Not copied.
        count: (U,) int64: how many entries each of them has, by `count_wanted`. Not copied.
    """

    def __init__(self, identities: Tensor, wanted: Tensor, count: Tensor) -> None:
        self._wanted = wanted
        self._count = count
        self.positions = wanted.new_zeros(int(count.sum()) + 1)
        """(W + 1,) int64: entries of wanted identities by their position in the list, one identity after the other.

        After them stands the first of the list, for whoever reads where nothing was found.
        """
        self._end = count.cumsum(0).sub_(count)  # of what is already there
        for position, group in _found(identities, wanted):
            group, order = group.sort(stable=True)
            rank = torch.arange(len(group), device=group.device) - torch.searchsorted(group, group)
            self.positions[self._end[group] + rank] = position[order]
            self._end.index_add_(0, group, torch.ones_like(group))

    def find(self, identities: Tensor) -> tuple[Tensor, Tensor]:
        """Where in `positions` the entries of each of (N,) identities start, and how many there are: (N,) int64 both.

        None of an identity that is not wanted.
        """
        if not len(self._wanted):
            return torch.zeros_like(identities), torch.zeros_like(identities)
        group, known = _group(identities, self._wanted)
        count = self._count[group]
        return self._end[group] - count, count.masked_fill_(~known, 0)


def count_wanted(identities: Tensor, wanted: Tensor) -> Tensor:
    """How many of (G,) entries are of each of the (U,) int64 identities that are wanted, ascending: (U,) int64."""
    count = torch.zeros_like(wanted)
    for _, group in _found(identities, wanted):
        count.index_add_(0, group, torch.ones_like(group))
    return count


def _found(identities: Tensor, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A part of the list at a time, entries of wanted identities: their positions, and which identity of those."""
    if not len(wanted):
        return
    for part in chunks.chunks(len(identities), chunks.LABEL_BYTES):
        group, known = _group(identities[part], wanted)
        position = known.nonzero().flatten()
        yield position + part.start, group[position]


def _group(identities: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the wanted identities each is, and whether it is one."""
    group = torch.searchsorted(wanted, identities).clamp_max_(len(wanted) - 1)
    return group, wanted[group] == identities


_LARGEST_BYTES = 64
"""For each entry of the largest identity, what positions may take beyond a chunk: half of what tables of a query do."""


class Matching:
    """Looks up the matches of queries in the gallery sorted by identity, so that no pair of labels is compared.

    Of a long list of queries, this is done for a part of it at a time.

    Args:
        query: Their labels.
        gallery: The labels of images, or of tracks.
        protocol: What is a match, and what is ignored.
        positions: (Q,) int64: which gallery entries the queries are, where both are one list; 0, 1, ... where None.
    """

    def __init__(
        self, query: Embeddings, gallery: Embeddings | Tracks, protocol: Protocol, positions: Tensor | None = None
    ) -> None:
        self.query = query
        self.gallery = gallery
        self.protocol = protocol
        device = query.identities.device
        self._nobody = torch.tensor(protocol.junk + protocol.distractors, dtype=torch.int64, device=device)
        self._ignored = self._nobody[: len(protocol.junk)]
        self._positions = positions
        self.parts: list[slice] = []
        """Parts of the query list, one after the other, for which matches are looked up together."""
        self.largest = 0
        """The most gallery entries that share the identity of one query; 0 where no identity is in both lists.

        Where several processes share the queries: of any query of theirs.
        """
        self._part = slice(0, 0)
        self._gallery: ByIdentity
        """Sorted as far as the queries of this part ask for it."""
        self._cut()

    def __call__(self, rows: slice) -> Matches:
        """The matches of these rows of the query list, of the part whose `blocks` were last taken, or of the only one.

        As wide for any rows, because the width decides the order in which a precision is summed, and so its last digit.

        Raises:
            ValueError: The rows are of another part.
        """
        if rows.start < self._part.start or rows.stop > self._part.stop:
            raise ValueError(
                f"queries {rows.start} to {rows.stop} are not of the part looked up: take rows from `blocks`"
            )
        start, count = (part[:, None] for part in self._gallery.find(self.query.identities[rows]))
        offset = torch.arange(max(1, self.largest), device=count.device)
        columns = self._gallery.positions[start + offset.minimum(count - 1).clamp_min_(0)]
        positive = offset < count
        if self.protocol.camera_rule:
            positive &= ~self._same_camera(rows, columns)
        if self.protocol.query_in_gallery:
            positive &= columns != self._own_position(rows)
        return Matches(columns, positive)

    def blocks(self, row_bytes: int, workers: int = 1, shared: int | None = None) -> Iterator[list[slice]]:
        """All rows of the query list, cut as by `chunks`: the blocks of one part, then those of the next.

        The matches of a block can be asked for until the next part's are taken.
        """
        for part in self.parts:
            if part != self._part:
                self._part = part
                self._gallery = ByIdentity(self.gallery.identities, *self._count(part))
            blocks = chunks.chunks(part.stop - part.start, row_bytes, workers, shared)
            yield [slice(part.start + rows.start, part.start + rows.stop) for rows in blocks]

    def junk(self, columns: slice) -> Tensor:
        """(J,) int64: positions, in this part of the gallery, of entries that are ignored for every query."""
        return torch.isin(self.gallery.identities[columns], self._ignored).nonzero().flatten()

    def relevance(self, rows: slice, columns: Tensor) -> Tensor:
        """What gallery entries are to these rows of the query list.

        Args:
            rows: Which queries, R of them.
            columns: (R, K) int64 positions in the gallery.

        Returns:
            (R, K) int8: 1 for a correct answer, 0 for a wrong one, -1 for what the protocol ignores.
        """
        found, asked = self.gallery.identities[columns], self.query.identities[rows, None]
        same = found == asked
        ignored = torch.isin(found, self._ignored)
        if self.protocol.camera_rule:
            ignored |= same & self._same_camera(rows, columns)
        if self.protocol.query_in_gallery:
            ignored |= columns == self._own_position(rows)
        return (same & ~torch.isin(asked, self._nobody)).to(torch.int8).masked_fill(ignored, -1)

    def _own_position(self, rows: slice) -> Tensor:
        if self._positions is not None:
            return self._positions[rows, None]
        return torch.arange(rows.start, rows.stop, device=self.query.identities.device)[:, None]

    def _same_camera(self, rows: slice, columns: Tensor) -> Tensor:
        gallery, query = self.gallery.cameras, self.query.cameras
        assert gallery is not None and query is not None  # `Search` has asked for them
        return gallery[columns] == query[rows, None]

    def _cut(self) -> None:
        """Cut the query list into parts whose matches take no more than a chunk, or than the table of few queries."""
        waiting = list(chunks.chunks(len(self.query), chunks.LABEL_BYTES))[::-1]
        while waiting:
            part = waiting.pop()
            wanted, count = self._count(part)
            largest = int(count.max()) if len(count) else 0
            if 8 * int(count.sum()) > max(chunks.CHUNK_BYTES, _LARGEST_BYTES * largest):
                middle = (part.start + part.stop) // 2
                waiting += slice(middle, part.stop), slice(part.start, middle)
            else:
                self.parts.append(part)
                self.largest = max(self.largest, largest)
        if len(self.parts) == 1:
            self._part, self._gallery = part, ByIdentity(self.gallery.identities, wanted, count)

    def _count(self, part: slice) -> tuple[Tensor, Tensor]:
        """The identities of these queries, ascending and without nobody's, and how many gallery entries each has."""
        identities = self.query.identities[part].unique()
        wanted = identities[~torch.isin(identities, self._nobody)]
        return wanted, count_wanted(self.gallery.identities, wanted)
