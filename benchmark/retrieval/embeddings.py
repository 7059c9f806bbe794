"""Embeddings of a list of images, with their labels."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from benchmark.retrieval import _chunks

_UNIT_TOLERANCE = 5e-7
"""Rounding error of the norm of a vector that was normalized in float32."""
_MIN_NORM = 1e-12
"""Smallest divisor of a normalization, as in `torch.nn.functional.normalize`."""


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Embeddings of a list of images and their labels, all on one device.

    Accepts tensors, NumPy arrays (a `numpy.memmap` stays on disk) and lists of numbers, and labels of any integer type.

    Raises:
        ValueError: A shape or type is not as documented below, a vector contains NaN or infinity, or a nonzero vector
            is too short or too long to be normalized in float32.
    """

    vectors: Tensor
    """(N, D) floating point, N and D >= 1. Need not be normalized."""
    identities: Tensor
    """(N,) int64."""
    cameras: Tensor | None = None
    """(N,) int64. Required by protocols with a camera rule."""
    tracks: Tensor | None = None
    """(N,) int64 track number of each image. Required of the gallery by protocols that rank tracks."""
    scale: Tensor = field(init=False, repr=False)
    """(N,) float32 factor that normalizes each vector; exactly 1 for vectors that are already of unit length."""

    def __post_init__(self) -> None:
        vectors = _tensor("vectors", self.vectors)
        if vectors.ndim != 2 or not vectors.is_floating_point() or not vectors.numel():
            raise ValueError(f"vectors must be (N, D) floating point with N, D >= 1, not {_describe(vectors)}")
        object.__setattr__(self, "vectors", vectors)
        for name in ("identities", "cameras", "tracks"):
            values = getattr(self, name)
            if values is None and name != "identities":
                continue
            labels = _tensor(name, values)
            integers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
            if labels.shape != vectors.shape[:1] or not integers:
                remedy = "" if integers or labels.shape != vectors.shape[:1] else ": convert them to integers"
                raise ValueError(
                    f"{name} must be ({len(self)},) integers, one per vector, not {_describe(labels)}{remedy}"
                )
            if labels.device != vectors.device:
                raise ValueError(f"{name} are on {labels.device}, but the vectors are on {vectors.device}")
            object.__setattr__(self, name, labels.long().contiguous())
        object.__setattr__(self, "scale", self._scale())

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: Tensor) -> Self:
        """Return the images at the given (N,) int64 positions."""
        return self._map(lambda part: part[rows])

    def to(self, device: torch.device) -> Self:
        """Return a copy on the given device."""
        return self._map(lambda part: part.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        labels = (label if label is None else function(label) for label in (self.cameras, self.tracks))
        return type(self)(function(self.vectors), function(self.identities), *labels)

    def _scale(self) -> Tensor:
        norms = torch.empty(len(self), device=self.vectors.device)
        for rows in _chunks.chunks(len(self), 4 * self.vectors.shape[1]):
            norms[rows] = torch.linalg.vector_norm(self.vectors[rows].detach().float(), dim=1)
        # NaN must be refused: no negative has a higher score than a NaN, so a diverged model would score perfectly.
        if len(invalid := (~norms.isfinite()).nonzero()):
            raise ValueError(
                f"row {int(invalid[0])} of the vectors has no finite norm: it contains NaN, infinity or values too "
                f"large for float32 ({len(invalid)} of {len(self)} rows do)"
            )
        short = (norms < _MIN_NORM).nonzero().flatten()
        for part in _chunks.chunks(len(short), 4 * self.vectors.shape[1]):
            if len(nonzero := self.vectors[short[part]].any(dim=1).nonzero()):
                raise ValueError(
                    f"row {int(short[part][nonzero[0]])} of the vectors is nonzero, but its norm is below {_MIN_NORM}: "
                    "it is too short to be normalized in float32"
                )
        for rows in _chunks.chunks(len(self), 4):
            is_unit = (norms[rows] - 1).abs() < _UNIT_TOLERANCE
            norms[rows].clamp_min_(_MIN_NORM).reciprocal_().masked_fill_(is_unit, 1.0)
        return norms


def _tensor(name: str, values: Any) -> Tensor:
    if not isinstance(values, Tensor):
        values = _numbers(name, values)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
            tensor = torch.as_tensor(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} are {values.dtype}, which torch does not have: convert them to float32") from error
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} are sparse: convert them with to_dense()")
    return tensor


def _numbers(name: str, values: Any) -> np.ndarray:
    """Return values as an array of numbers, in a form that torch can convert.

    Raises:
        ValueError: They are text or objects, have rows of different lengths, or are too large.
    """
    try:
        array = np.asanyarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be converted to an array: all rows must have the same length") from error
    if array.dtype.kind in "mM":
        raise ValueError(f"{name} are {array.dtype}, which is a time: convert them to numbers")
    if array.dtype.hasobject and all(isinstance(value, int | float | np.number) for value in array.flat):
        array = np.array(array.tolist())  # pandas stores columns of integers that had gaps as objects
    if array.dtype.kind in "biufc":
        if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"{name} have values that do not fit into 64 bits with a sign")
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        return native if min(native.strides, default=0) >= 0 else native.copy()
    others = [value for value in array.flat if not isinstance(value, int | float | np.number)]
    if not others:
        raise ValueError(f"{name} have values that do not fit into 64 bits with a sign")
    first = others[0]
    remedy = ""
    if isinstance(first, str | bytes) and name != "vectors":
        remedy = (
            ": number the labels of query and gallery together, such as with "
            "numpy.unique(numpy.concatenate([query_labels, gallery_labels]), return_inverse=True)[1]"
        )
    elif first is None and name in ("cameras", "tracks"):
        remedy = f": give all {name}, or None instead of the list if they are unknown"
    raise ValueError(f"{name} have the value {str(first)[:40]!r}, which is not a number{remedy}")


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
