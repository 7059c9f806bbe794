"""Finding the correct answers of each query under a protocol."""

import torch
from torch import Tensor

from benchmark.retrieval.by_identity import LABEL_BYTES, ByIdentity
from benchmark.retrieval.chunks import chunks
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
        device = query.identities.device
        self._nobody = torch.tensor(protocol.junk + protocol.distractors, dtype=torch.int64, device=device)
        self._ignored = self._nobody[: len(protocol.junk)]
        self.junk = _members(gallery.identities, self._ignored)
        """(J,) int64: positions in the gallery that are ignored for every query."""
        wanted = query.identities.unique()
        self._gallery = ByIdentity(gallery.identities, wanted[~torch.isin(wanted, self._nobody)])
        self._positions = positions
        self.largest = self._gallery.largest
        """The most gallery entries that share the identity of one query; 0 where no identity is in both lists.

        Where several processes share the queries: of any query of theirs.
        """

    def __call__(self, rows: slice) -> Matches:
        """The matches of these rows of the query list.

        As wide for any rows, because the width decides the order in which a precision is summed, and so its last digit.
        """
        start, count = (part[:, None] for part in self._gallery.find(self.query.identities[rows]))
        offset = torch.arange(max(1, self.largest), device=count.device)
        columns = self._gallery.positions[start + offset.minimum(count - 1).clamp_min_(0)]
        positive = offset < count
        if self.protocol.camera_rule:
            positive &= ~self._same_camera(rows, columns)
        if self.protocol.query_in_gallery:
            positive &= columns != self._own_position(rows)
        return Matches(columns, positive)

    def relation(self, rows: slice, columns: Tensor) -> Tensor:
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


def _members(identities: Tensor, group: Tensor) -> Tensor:
    """Positions of entries whose identity is one of a group."""
    found = [
        torch.isin(identities[part], group).nonzero().flatten() + part.start
        for part in chunks(len(identities), LABEL_BYTES)
    ]
    return torch.cat(found)
