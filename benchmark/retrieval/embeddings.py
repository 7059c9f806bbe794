"""What a model says about a list of images, with the labels by which it is judged."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.retrieval._chunks import chunks


def require_comparable(query: Tensor, gallery: Tensor) -> None:
    """Refuse (Q, D) and (G, D) vectors that cannot be compared.

    Raises:
        ValueError: Shapes, types or devices do not fit.
    """
    for name, vectors in (("query", query), ("gallery", gallery)):
        if vectors.ndim != 2 or not vectors.is_floating_point() or not len(vectors):
            raise ValueError(f"{name} must be (N, D) floating point with N >= 1, not {tuple(vectors.shape)}")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query and gallery vectors differ in size: {query.shape[1]} and {gallery.shape[1]}")
    if query.device != gallery.device:
        raise ValueError(f"the query is on {query.device}, the gallery on {gallery.device}")


_ROUNDING = 5e-7
"""Of lengths that float32 has normalised."""
_SHORTEST = 1e-12
"""What shorter vectors are divided by when they are normalised, as by torch."""


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Embedded images and their labels, in the order of the list they come from. All on one device.

    Tensors, arrays (a `numpy.memmap` stays on the disk) and lists of numbers are taken; labels of any integer type.

    Raises ValueError for shapes or types other than those below, for a vector that holds NaN or infinity (counting the
    negatives that beat a NaN finds none, so a diverged model would score as a perfect one), and for one that is not
    zero, but too short or too long to be normalised in float32.
    """

    vectors: Tensor
    """(N, D) floating point, N and D >= 1. Need not be normalised."""
    identities: Tensor
    """(N,) int64."""
    cameras: Tensor | None = None
    """(N,) int64, for protocols with a camera rule."""
    tracks: Tensor | None = None
    """(N,) int64: the number of each image's track, for protocols that rank tracks."""
    scale: Tensor = field(init=False, repr=False)
    """(N,) float32: what makes each vector one of unit length; exactly 1 where it is, as near as float32 normalises."""

    def __post_init__(self) -> None:
        vectors = _tensor("vectors", self.vectors)
        if vectors.ndim != 2 or not vectors.is_floating_point() or not vectors.numel():
            raise ValueError(f"vectors must be (N, D) floating point with N, D >= 1, not {_describe(vectors)}")
        object.__setattr__(self, "vectors", vectors)
        for name in ("identities", "cameras", "tracks"):
            given = getattr(self, name)
            if given is None and name != "identities":
                continue
            labels = _tensor(name, given)
            integers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
            if labels.shape != vectors.shape[:1] or not integers:
                raise ValueError(f"{name} must be ({len(self)},) integers, one per vector, not {_describe(labels)}")
            if labels.device != vectors.device:
                raise ValueError(f"{name} are on {labels.device}, the vectors on {vectors.device}")
            object.__setattr__(self, name, labels.long().contiguous())
        object.__setattr__(self, "scale", self._scale())

    def _scale(self) -> Tensor:
        norms = torch.empty(len(self), device=self.vectors.device)
        for rows in chunks(len(self), 4 * self.vectors.shape[1]):
            norms[rows] = torch.linalg.vector_norm(self.vectors[rows].detach().float(), dim=1)
        # They also tell what is too long to be normalised in float32.
        if len(broken := (~norms.isfinite()).nonzero()):
            raise ValueError(
                f"row {int(broken[0])} of the vectors has no finite norm: it holds NaN, infinity or values too large "
                f"for float32 ({len(broken)} of {len(self)} rows do)"
            )
        short = (norms < _SHORTEST).nonzero().flatten()
        for some in chunks(len(short), 4 * self.vectors.shape[1]):
            if len(lost := self.vectors[short[some]].any(dim=1).nonzero()):
                raise ValueError(
                    f"row {int(short[some][lost[0]])} of the vectors is not zero, but shorter than {_SHORTEST}: too "
                    "short to be normalised in float32"
                )
        for rows in chunks(len(self), 4):
            of_unit_length = (norms[rows] - 1).abs() < _ROUNDING
            norms[rows].clamp_min_(_SHORTEST).reciprocal_().masked_fill_(of_unit_length, 1.0)
        return norms

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: Tensor) -> "Embeddings":
        """The images at these positions, (N,) int64."""
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device) -> "Embeddings":
        """The same on a device."""
        return self._each(lambda part: part.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Embeddings":
        labels = (label if label is None else change(label) for label in (self.cameras, self.tracks))
        return Embeddings(change(self.vectors), change(self.identities), *labels)


def _tensor(name: str, values: Any) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing is written to it
            return torch.as_tensor(values if isinstance(values, Tensor) else np.asanyarray(values))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be made a tensor: {error}") from error


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
