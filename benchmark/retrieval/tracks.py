"""Tracks: the images that one camera took of one identity while it passed."""

import torch
from torch import Tensor

from benchmark.retrieval.embeddings import Embeddings


class Tracks:
    """The tracks of a gallery, labelled as their images are.

    Args:
        gallery: Images with their tracks.

    Raises:
        ValueError: The gallery has no tracks, or one of them has several identities or cameras.
    """

    def __init__(self, gallery: Embeddings) -> None:
        if gallery.tracks is None:
            raise ValueError("the protocol ranks tracks, but the gallery does not say which image is in which track")
        numbers, self._slot = gallery.tracks.unique(return_inverse=True)
        last = torch.zeros_like(numbers)
        member = last.scatter_reduce_(0, self._slot, torch.arange(len(gallery), device=numbers.device), "amax")
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
            mixed = (of_tracks[self._slot] != of_images).nonzero().flatten()
            if len(mixed):
                raise ValueError(f"track {int(gallery.tracks[mixed[0]])} has more than one {name}")

    def __len__(self) -> int:
        return len(self.identities)

    def best(self, scores: Tensor) -> Tensor:
        """(Q, N) scores of images -> (Q, T): of every track, the highest."""
        best = scores.new_full((len(scores), len(self)), -torch.inf)
        return best.scatter_reduce_(1, self._slot.expand_as(scores), scores, "amax")
