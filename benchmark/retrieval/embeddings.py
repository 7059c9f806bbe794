"""What a model says about a list of images, with the labels by which it is judged."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Embedded images and their labels, in the order of the list they come from. All on one device.

    Raises ValueError for shapes or types other than those below, and for a vector that holds NaN or infinity: counting
    the negatives that beat a NaN finds none, so a diverged model would score as a perfect one.
    """

    vectors: Tensor
    """(N, D) floating point, N >= 1. Need not be normalised."""
    identities: Tensor
    """(N,) int64."""
    cameras: Tensor
    """(N,) int64."""
    tracks: Tensor | None = None
    """(N,) int64: the number of each image's track, for protocols that rank tracks."""

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not self.vectors.is_floating_point() or not len(self.vectors):
            raise ValueError(f"vectors must be (N, D) floating point with N >= 1, not {_describe(self.vectors)}")
        for name in ("identities", "cameras", "tracks"):
            labels = getattr(self, name)
            if labels is None:
                continue
            if labels.shape != self.vectors.shape[:1] or labels.dtype != torch.int64:
                raise ValueError(f"{name} must be ({len(self)},) int64, one per vector, not {_describe(labels)}")
            if labels.device != self.vectors.device:
                raise ValueError(f"{name} are on {labels.device}, the vectors on {self.vectors.device}")
        # The norm needs no mask the size of the vectors, and also finds what is too long to be normalised in float32.
        broken = (~torch.linalg.vector_norm(self.vectors.float(), dim=1).isfinite()).nonzero().flatten()
        if len(broken):
            raise ValueError(
                f"row {int(broken[0])} of the vectors has no finite norm: it holds NaN, infinity or values too large "
                f"for float32 ({len(broken)} of {len(self)} rows do)"
            )

    def __len__(self) -> int:
        return len(self.vectors)


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
