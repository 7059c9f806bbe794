"""Counting the scores that stand before others."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.retrieval.side_by_side import side_by_side

ByteArray = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.intp]

_PART_BYTES = 2**21
"""Of the scores that are worked on at once: few enough for a core's cache, and enough that the calls cost little."""
_SPARSE = 32
"""Where one entry of so many is a candidate, or fewer, it is faster to pick them out than to move them to one side."""


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
    candidates = np.concatenate(side_by_side(lambda part: _candidates(rows[part], lowest[part]), parts, workers))
    counts = np.bitwise_count(candidates).sum(axis=1, dtype=np.intp)
    found = torch.empty(thresholds.shape, dtype=torch.int64)
    order = counts.argsort()  # rows with about as many candidates, together

    def compare(part: slice) -> None:
        chosen = order[part]
        most = int(counts[chosen[-1]])
        if most * _SPARSE < rows.shape[1]:
            best = _picked(rows, chosen, candidates[chosen], counts[chosen])
        else:
            best = _partitioned(rows[chosen], most)
        best.sort(axis=1)
        found[chosen] = best.shape[1] - torch.searchsorted(torch.from_numpy(best), thresholds[chosen])

    side_by_side(compare, parts, workers)
    return found


def _candidates(rows: FloatArray, lowest: FloatArray) -> ByteArray:
    """Which entries of (R, G) rows reach their lowest threshold, eight to a byte: (R, ceil(G / 8))."""
    return np.packbits(rows >= lowest, axis=1)


def _picked(rows: FloatArray, chosen: IntArray, candidates: ByteArray, counts: IntArray) -> FloatArray:
    """The candidates of the chosen rows, moved left; minus infinity beside them."""
    byte = np.flatnonzero(candidates)
    bit = np.flatnonzero(np.unpackbits(candidates.ravel()[byte]))
    row, eighth = np.divmod(byte, candidates.shape[1])
    first = chosen[row] * rows.shape[1] + 8 * eighth
    picked = np.full((len(chosen), max(1, int(counts.max()))), -np.inf, dtype=np.float32)
    picked[np.arange(picked.shape[1]) < counts[:, None]] = rows.ravel()[first[bit >> 3] + (bit & 7)]
    return picked


def _partitioned(rows: FloatArray, count: int) -> FloatArray:
    """The `count` largest entries of each of (R, G) rows, whose order is lost; or all, where most would be taken."""
    if 4 * count > 3 * rows.shape[1]:
        return rows
    first = rows.shape[1] - max(1, count)
    rows.partition(first, axis=1)
    return np.ascontiguousarray(rows[:, first:])
