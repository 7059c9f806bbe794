"""The similarity of queries and tracks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmark.retrieval.tracks import Tracks

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
            self.tracks.raise_to(best, self.scores(rows, part), part)
        return best
