"""Finding the correct answers of each query under a protocol."""

import torch
from torch import Tensor

from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.matches import Matches
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.tracks import Tracks


class Matching:
    """Looks up the matches of queries in the gallery sorted by identity, so that no pair of labels is compared.

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
        nobody = torch.tensor(protocol.junk + protocol.distractors, dtype=torch.int64, device=query.identities.device)
        self.junk = torch.isin(gallery.identities, nobody[: len(protocol.junk)]).nonzero().flatten()
        """(J,) int64: positions in the gallery that are ignored for every query."""
        identities, self._order = gallery.identities.sort()
        self._start = torch.searchsorted(identities, query.identities)
        count = torch.searchsorted(identities, query.identities, right=True) - self._start
        self._count = count.masked_fill(torch.isin(query.identities, nobody), 0)
        self._positions = torch.arange(len(query), device=identities.device) if positions is None else positions
        self.largest = int(self._count.max())
        """The most gallery entries that share the identity of one query; 0 where no identity is in both lists.

        Where several processes share the queries: of any query of theirs.
        """

    def __call__(self, rows: slice) -> Matches:
        """The matches of these rows of the query list.

        As wide for any rows, because the width decides the order in which a precision is summed, and so its last digit.
        """
        start, count = self._start[rows, None], self._count[rows, None]
        offset = torch.arange(max(1, self.largest), device=count.device)
        columns = self._order[(start + offset.minimum(count - 1)).clamp(0, len(self._order) - 1)]
        positive = offset < count
        if self.protocol.camera_rule:
            positive &= ~self._same_camera(rows, columns)
        if self.protocol.query_in_gallery:
            positive &= columns != self._positions[rows, None]
        return Matches(columns, positive)

    def relation(self, rows: slice, columns: Tensor) -> Tensor:
        """What gallery entries are to these rows of the query list.

        Args:
            rows: Which queries, R of them.
            columns: (R, K) int64 positions in the gallery.

        Returns:
            (R, K) int8: 1 for a correct answer, 0 for a wrong one, -1 for what the protocol ignores.
        """
        same = self.gallery.identities[columns] == self.query.identities[rows, None]
        ignored = torch.isin(columns, self.junk)
        if self.protocol.camera_rule:
            ignored |= same & self._same_camera(rows, columns)
        if self.protocol.query_in_gallery:
            ignored |= columns == self._positions[rows, None]
        return (same & (self._count[rows, None] > 0)).to(torch.int8).masked_fill(ignored, -1)

    def _same_camera(self, rows: slice, columns: Tensor) -> Tensor:
        gallery, query = self.gallery.cameras, self.query.cameras
        assert gallery is not None and query is not None  # `Search` has asked for them
        return gallery[columns] == query[rows, None]
