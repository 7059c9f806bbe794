"""Counting the scores that stand before others, in sorted rows."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.retrieval.side_by_side import side_by_side

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.intp]

_PART_BYTES = 2**22
"""Of the scores that are worked on at once: few enough for a core's cache, and enough that the calls cost little."""


def count_reaching(scores: Tensor, thresholds: Tensor, workers: int = 1) -> Tensor:
    """How many scores of a row are at least as large as each of its thresholds.

    Args:
        scores: (Q, G) float32, finite or minus infinity. On the CPU they are overwritten: their order is lost.
        thresholds: (Q, M) float32, not NaN.
        workers: Threads that count, on the CPU.

    Returns:
        (Q, M) int64.
    """
    if scores.device.type != "cpu":
        return scores.shape[1] - torch.searchsorted(scores.sort(dim=1).values, thresholds)
    step = max(1, _PART_BYTES // (4 * scores.shape[1]))
    parts = list(zip(scores.split(step), thresholds.split(step), strict=True))
    return torch.cat(side_by_side(lambda part: _count(*part), parts, workers))


def _count(scores: Tensor, thresholds: Tensor) -> Tensor:
    """The same on the CPU, by NumPy: its sort of float32 is vectorised, some thirty times as fast as torch's."""
    rows = np.ascontiguousarray(scores.numpy())
    # Only what reaches a row's lowest threshold counts for any: where that is a small share, it is picked out first.
    reaching = rows >= thresholds.numpy().min(axis=1, keepdims=True)
    if 16 * np.count_nonzero(reaching) < rows.size:
        rows = _packed(rows, np.flatnonzero(reaching))
    rows.sort(axis=1)
    return rows.shape[1] - torch.searchsorted(torch.from_numpy(rows), thresholds)


def _packed(rows: FloatArray, chosen: IntArray) -> FloatArray:
    """The chosen entries of (R, G) rows, ascending positions in all of them, moved left; minus infinity beside them."""
    counts = np.bincount(chosen // rows.shape[1], minlength=len(rows))
    packed = np.full((len(rows), int(counts.max())), -np.inf, dtype=np.float32)
    packed[np.arange(packed.shape[1]) < counts[:, None]] = rows.ravel()[chosen]
    return packed
