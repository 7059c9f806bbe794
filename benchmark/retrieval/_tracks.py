"""Tracks of a gallery, and the similarity of queries and tracks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmark.retrieval import _chunks
from benchmark.retrieval.embeddings import Embeddings

_IMAGE_BYTES = 12
"""Bytes per query and image while scores of images are reduced to tracks: the score, and the image's track index."""


class Tracks:
    """The tracks of a gallery with their labels, in ascending order of the track numbers.

    Takes 32 bytes per track, and nothing per image.

    Args:
        gallery: Images with their tracks.

    Raises:
        ValueError: The gallery has no tracks, or the images of a track differ in identity or camera.
    """

    def __init__(self, gallery: Embeddings) -> None:
        if gallery.tracks is None:
            raise ValueError("the protocol ranks tracks, but the gallery has no tracks: pass Embeddings(..., tracks=)")
        self._of_image = gallery.tracks
        self._numbers = gallery.tracks[:0]
        """(T,) int64 track numbers, ascending."""
        parts = list(_chunks.chunks(len(gallery), _chunks.LABEL_BYTES))
        pending: list[Tensor] = []
        for images in parts:
            pending.append(gallery.tracks[images].unique())
            # Merging only as many numbers as there are already keeps the number of merges logarithmic.
            if images is parts[-1] or sum(map(len, pending)) > len(self._numbers):
                self._numbers = torch.cat([self._numbers, *pending]).unique()
                pending.clear()
        member = torch.zeros_like(self._numbers)
        for images in parts:
            position = torch.arange(images.start, images.stop, device=member.device)
            member.scatter_reduce_(0, self._track_index(images), position, "amax")
        self.member = member
        """(T,) int64: position in the gallery of one image of each track."""
        self.identities = gallery.identities[member]
        """(T,) int64."""
        self.cameras = None if gallery.cameras is None else gallery.cameras[member]
        """(T,) int64, or None if the gallery has no cameras."""
        for name, of_tracks, of_images in (
            ("identity", self.identities, gallery.identities),
            ("camera", self.cameras, gallery.cameras),
        ):
            if of_tracks is None or of_images is None:
                continue
            for images in parts:
                mixed = (of_tracks[self._track_index(images)] != of_images[images]).nonzero().flatten()
                if len(mixed):
                    track = int(gallery.tracks[images][mixed[0]])
                    raise ValueError(f"track {track} has more than one {name}: give each its own track number")

    def __len__(self) -> int:
        return len(self.identities)

    def scatter_max_(self, best: Tensor, scores: Tensor, images: slice) -> None:
        """Raise the scores of tracks to the highest score of some of their images, in place.

        Args:
            best: (Q, T) scores of tracks. Modified.
            scores: (Q, N) scores of the images.
            images: N consecutive images of the gallery.
        """
        best.scatter_reduce_(1, self._track_index(images).expand_as(scores), scores, "amax")

    def _track_index(self, images: slice) -> Tensor:
        """Return the (N,) int64 index of the track of each of these images."""
        return torch.searchsorted(self._numbers, self._of_image[images])


class TrackSimilarity:
    """Similarity of queries and tracks: the score of the most similar image of each track.

    Args:
        scores: Maps some rows of the query list and a part of the gallery to (rows, images) float32 scores.
        tracks: Tracks of the gallery.
        parts: Consecutive parts that cover the gallery. Scores are computed for one part at a time.
    """

    def __init__(self, scores: Callable[[slice, slice], Tensor], tracks: Tracks, parts: Sequence[slice]) -> None:
        self.scores = scores
        self.tracks = tracks
        self.parts = parts

    @property
    def query_bytes(self) -> int:
        """Bytes allocated per query in addition to the scores of the tracks."""
        return _IMAGE_BYTES * max(part.stop - part.start for part in self.parts)

    def __call__(self, rows: slice) -> Tensor:
        """Return (rows, T) float32 scores, higher for more similar."""
        queries = rows.stop - rows.start
        best = torch.full((queries, len(self.tracks)), -torch.inf, device=self.tracks.identities.device)
        for part in self.parts:
            self.tracks.scatter_max_(best, self.scores(rows, part), part)
        return best
