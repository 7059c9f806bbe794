"""The similarity of queries and tracks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmark.retrieval._chunks import LABEL_BYTES, chunks
from benchmark.retrieval.embeddings import Embeddings


class Tracks:
    """The tracks of a gallery, labelled as their images are.

    Takes 32 bytes for each track; nothing for each image.

    Args:
        gallery: Images with their tracks.

    Raises:
        ValueError: The gallery has no tracks, or one of them has several identities or cameras.
    """

    def __init__(self, gallery: Embeddings) -> None:
        if gallery.tracks is None:
            raise ValueError("the protocol ranks tracks, but the gallery does not say which image is in which track")
        self._of_image = gallery.tracks
        self._numbers = gallery.tracks[:0]
        parts = list(chunks(len(gallery), LABEL_BYTES))
        found: list[Tensor] = []
        for images in parts:
            found.append(gallery.tracks[images].unique())
            if images is parts[-1] or sum(map(len, found)) > len(self._numbers):  # not all anew for every few
                self._numbers = torch.cat([self._numbers, *found]).unique()
                found.clear()
        member = torch.zeros_like(self._numbers)
        for images in parts:
            position = torch.arange(images.start, images.stop, device=member.device)
            member.scatter_reduce_(0, self._slots(images), position, "amax")
        self.member = member
        """(T,) int64: an image of each track, by its position in the gallery."""
        self.identities = gallery.identities[member]
        """(T,) int64."""
        self.cameras = None if gallery.cameras is None else gallery.cameras[member]
        """(T,) int64, where they are known."""
        for name, of_tracks, of_images in (
            ("identity", self.identities, gallery.identities),
            ("camera", self.cameras, gallery.cameras),
        ):
            if of_tracks is None or of_images is None:
                continue
            for images in parts:
                mixed = (of_tracks[self._slots(images)] != of_images[images]).nonzero().flatten()
                if len(mixed):
                    track = int(gallery.tracks[images][mixed[0]])
                    raise ValueError(f"track {track} has more than one {name}")

    def __len__(self) -> int:
        return len(self.identities)

    def scatter_max_(self, best: Tensor, scores: Tensor, images: slice) -> None:
        """Raise the (Q, T) `best` scores of tracks to the (Q, N) `scores` of their images, where those are higher.

        Args:
            best: Changed.
            scores: Of the same queries.
            images: Which part of the gallery.
        """
        best.scatter_reduce_(1, self._slots(images).expand_as(scores), scores, "amax")

    def _slots(self, images: slice) -> Tensor:
        """(N,) int64: which track each of these images is in."""
        return torch.searchsorted(self._numbers, self._of_image[images])


_IMAGE_BYTES = 12
"""What the score of an image, and the track that it belongs to, written out for every query, occupy."""


class TrackSimilarity:
    """Of queries and tracks: for every track, the score of its most similar image.

    Args:
        scores: Rows of the query list, and a part of the gallery -> (rows, images) float32 scores.
        tracks: Which image is in which.
        parts: Of the gallery, one after the other; that many scores are made of each query at a time.
    """

    def __init__(self, scores: Callable[[slice, slice], Tensor], tracks: Tracks, parts: Sequence[slice]) -> None:
        self.scores = scores
        self.tracks = tracks
        self.parts = parts

    @property
    def query_bytes(self) -> int:
        """What is made for each query beside its scores of tracks."""
        return _IMAGE_BYTES * max(part.stop - part.start for part in self.parts)

    def __call__(self, rows: slice) -> Tensor:
        """(rows, T) float32 scores, higher for more alike."""
        queries = rows.stop - rows.start
        best = torch.full((queries, len(self.tracks)), -torch.inf, device=self.tracks.identities.device)
        for part in self.parts:
            self.tracks.scatter_max_(best, self.scores(rows, part), part)
        return best
