"""Counting the scores that stand before others."""

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
        scores: (Q, G) float32, finite or minus infinity.
        thresholds: (Q, M) float32, not NaN.
        workers: Threads that count, on the CPU.

    Returns:
        (Q, M) int64.
    """
    if scores.device.type != "cpu":
        return scores.shape[1] - torch.searchsorted(scores.sort(dim=1).values, thresholds)
    # By NumPy, whose sort of float32 is vectorised, some thirty times as fast as torch's. Only what reaches a row's
    # lowest threshold counts for any of them, and has to be sorted.
    rows, lowest = scores.numpy(), thresholds.numpy().min(axis=1, keepdims=True)
    step = max(1, _PART_BYTES // (4 * rows.shape[1]))
    parts = [slice(start, start + step) for start in range(0, len(rows), step)]
    counts = np.concatenate(side_by_side(lambda part: _count(rows[part], lowest[part]), parts, workers))
    found = torch.empty(thresholds.shape, dtype=torch.int64)
    sparse = 64 * counts.sum() < rows.size
    order = np.arange(len(rows)) if sparse else counts.argsort()  # rows that are partitioned alike, together

    def compare(part: slice) -> None:
        chosen = order[part]
        if sparse:
            candidates = _packed(rows[part], lowest[part], counts[part])
        else:
            candidates = _partitioned(rows[chosen], int(counts[chosen[-1]]))
        candidates.sort(axis=1)
        found[chosen] = candidates.shape[1] - torch.searchsorted(torch.from_numpy(candidates), thresholds[chosen])

    side_by_side(compare, parts, workers)
    return found


def _count(rows: FloatArray, lowest: FloatArray) -> IntArray:
    """How many entries of each row reach its lowest threshold."""
    return np.bitwise_count(np.packbits(rows >= lowest, axis=1)).sum(axis=1, dtype=np.intp)


def _packed(rows: FloatArray, lowest: FloatArray, counts: IntArray) -> FloatArray:
    """The entries of (R, G) rows that reach their lowest threshold, moved left; minus infinity beside them."""
    packed = np.full((len(rows), int(counts.max())), -np.inf, dtype=np.float32)
    packed[np.arange(packed.shape[1]) < counts[:, None]] = rows.ravel()[np.flatnonzero(rows >= lowest)]
    return packed


def _partitioned(rows: FloatArray, count: int) -> FloatArray:
    """The `count` largest entries of each of (R, G) rows, whose order is lost; or all, where most would be taken."""
    if 4 * count > 3 * rows.shape[1]:
        return rows
    first = rows.shape[1] - max(1, count)
    rows.partition(first, axis=1)
    return np.ascontiguousarray(rows[:, first:])
