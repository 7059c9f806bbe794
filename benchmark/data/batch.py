"""One training batch."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Images of a training step and what is known about them. A NamedTuple, so that loaders pin and move it whole."""

    images: Tensor
    """(B, 3, H, W) uint8."""
    labels: Tensor
    """(B,) int64 in 0 .. identities - 1."""
    cameras: Tensor
    """(B,) int64."""
    indices: Tensor
    """(B,) int64: position in the training list; methods with a memory per sample need it."""
