"""Tracks: the images that one camera took of one identity while it passed."""

import torch
from torch import Tensor

from benchmark.retrieval.by_identity import LABEL_BYTES
from benchmark.retrieval.chunks import chunks
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

    def raise_to(self, best: Tensor, scores: Tensor, images: slice) -> None:
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
