"""Finding the correct answers of each query under a protocol."""

import torch

from benchmark.retrieval.embeddings import Embeddings
from benchmark.retrieval.matches import Matches
from benchmark.retrieval.protocol import Protocol
from benchmark.retrieval.tracks import Tracks


class Matching:
    """Looks up the matches of queries in the gallery sorted by identity, so that no pair of labels is compared."""

    def __init__(self, query: Embeddings, gallery: Embeddings | Tracks, protocol: Protocol) -> None:
        self.query = query
        self.gallery = gallery
        self.protocol = protocol
        identities, self._order = gallery.identities.sort()
        self._start = torch.searchsorted(identities, query.identities)
        self._count = torch.searchsorted(identities, query.identities, right=True) - self._start
        self._positions = torch.arange(len(query), device=identities.device)
        self.largest = int(self._count.max())
        """The most gallery entries that share the identity of one query; 0 where no identity is in both lists."""

    def __call__(self, rows: slice) -> Matches:
        """The matches of these rows of the query list.

        As wide for any rows, because the width decides the order in which a precision is summed, and so its last digit.
        """
        start, count = self._start[rows, None], self._count[rows, None]
        offset = torch.arange(max(1, self.largest), device=count.device)
        columns = self._order[(start + offset.minimum(count - 1)).clamp_min(0)]
        positive = offset < count
        if self.protocol.camera_rule:
            positive &= self.gallery.cameras[columns] != self.query.cameras[rows, None]
        if self.protocol.query_in_gallery:
            positive &= columns != self._positions[rows, None]
        return Matches(columns, positive)
