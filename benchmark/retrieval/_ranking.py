"""Ranks of the correct matches of each query, and the metrics computed from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.retrieval._matching import Matches
from benchmark.retrieval._threads import parallel_map
from benchmark.retrieval.protocol import AveragePrecision, Ties

ByteArray = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.intp]

_PART_BYTES = 2**21
"""Bytes of scores that are counted at a time: they fit into a core's cache, and the calls' overhead is small."""
_SPARSE = 32
"""If at most one entry in 32 is a candidate, gathering the candidates is faster than partitioning the row."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Ranks of the positives of Q queries among all gallery entries that the protocol does not ignore.

    Every metric follows from these ranks, so that the whole ranked list is never needed.
    """

    ranks: Tensor
    """(Q, M) int64, counted from 1, ascending; 0 after a query's last positive."""
    positives: Tensor
    """(Q,) int64: number of positives of each query."""

    @classmethod
    def from_scores(
        cls,
        scores: Tensor,
        matches: Matches,
        tolerance: float = 0.0,
        ties: Ties = "pessimistic",
        workers: int = 1,
    ) -> Self:
        """Rank by scores.

        Sorting by score alone would leave ties to the order of the gallery, which can favor a model that gives every
        image the same embedding.

        Args:
            scores: (Q, G) float32, higher for more similar, finite; minus infinity for entries ignored for every query.
                Overwritten.
            matches: Positives and ignored entries of each query.
            tolerance: Scores that differ by no more than this are tied.
            ties: `pessimistic` ranks a negative before a positive that it is tied with, `optimistic` after it.
            workers: Number of threads that count, on the CPU.
        """
        thresholds = positive_thresholds(scores.gather(1, matches.gallery_index), matches, tolerance, ties)
        scores.scatter_(1, matches.gallery_index, -torch.inf)
        return cls.from_counts(count_reaching(scores, thresholds, workers), matches)

    @classmethod
    def from_counts(cls, negatives: Tensor, matches: Matches) -> Self:
        """Rank by the number of negatives before each positive, (Q, M) int64 in ascending order."""
        positives = matches.positive.sum(dim=1)
        order = torch.arange(1, negatives.shape[1] + 1, device=negatives.device)
        return cls((negatives + order) * (order <= positives[:, None]), positives)


def average_precision(ranking: Ranking, rule: AveragePrecision = "rectangular") -> Tensor:
    """Return the area under each query's precision-recall curve over the whole ranking.

    With r_k the rank of the k-th of n positives, `rectangular` is the mean over k of k / r_k, as in the evaluators of
    fast-reid and torchreid. `trapezoid` is the mean over k of the average of k / r_k and the precision one rank before,
    (k - 1) / (r_k - 1), which is 1 at the top of the ranking, as in the Matlab code published with Market-1501 and
    VeRi-776, and in the Oxford Buildings benchmark.

    Returns:
        (Q,) float64; NaN for queries without positives.
    """
    precision = _precision_at_positives(ranking)
    if rule == "trapezoid":
        before = (_positive_number(ranking) - 1) / (ranking.ranks - 1).clamp_min(1).double()
        precision = (precision + before.masked_fill(ranking.ranks == 1, 1.0)) / 2
    return ((ranking.ranks > 0) * precision).sum(dim=1) / ranking.positives


def average_precision_at_r(ranking: Ranking) -> Tensor:
    """Return 1 / R times the sum of k / r_k over the positives with rank r_k <= R, where R is the number of positives.

    The mean over queries is MAP@R (Musgrave, Belongie, Lim, A Metric Learning Reality Check, ECCV 2020), as in
    pytorch-metric-learning.

    Returns:
        (Q,) float64; NaN for queries without positives.
    """
    return (_is_in_first_r(ranking) * _precision_at_positives(ranking)).sum(dim=1) / ranking.positives


def r_precision(ranking: Ranking) -> Tensor:
    """Return the fraction of positives in the first R ranks, where R is the number of positives.

    Returns:
        (Q,) float64; NaN for queries without positives.
    """
    return _is_in_first_r(ranking).sum(dim=1) / ranking.positives.double()


def precision_at(ranking: Ranking, ks: Sequence[int]) -> Tensor:
    """Return the fraction of positives in the first K ranks, for each K.

    Rankings shorter than K are padded with negatives.

    Returns:
        (Q, len(ks)) float64; NaN for queries without positives.
    """
    first = ranking.ranks[:, : max(ks)]  # no later positive is in the first K ranks
    columns = [((first > 0) & (first <= k)).sum(dim=1).double() / k for k in ks]
    return torch.stack(columns, dim=1).masked_fill_(ranking.positives[:, None] == 0, torch.nan)


def inverse_negative_penalty(ranking: Ranking) -> Tensor:
    """Return the number of positives divided by the rank of the last one.

    The mean over queries is mINP (Ye et al., Deep Learning for Person Re-identification: A Survey and Outlook, TPAMI
    2021).

    Returns:
        (Q,) float64; NaN for queries without positives.
    """
    return ranking.positives.double() / ranking.ranks.amax(dim=1)


def first_match_rank(ranking: Ranking) -> Tensor:
    """Return the rank of the first positive, which determines Recall@K (CMC): (Q,) int64, 0 without positives."""
    return ranking.ranks[:, 0]


def _positive_number(ranking: Ranking) -> Tensor:
    """Return k = 1, 2, ... of the k-th positive: (M,) int64."""
    return torch.arange(1, ranking.ranks.shape[1] + 1, device=ranking.ranks.device)


def _precision_at_positives(ranking: Ranking) -> Tensor:
    """Return k / r_k, (Q, M) float64. Entries after a query's last positive are meaningless."""
    return _positive_number(ranking) / ranking.ranks.clamp_min(1).double()


def _is_in_first_r(ranking: Ranking) -> Tensor:
    """Return whether each positive is in the first R ranks: (Q, M) bool."""
    return (ranking.ranks > 0) & (ranking.ranks <= ranking.positives[:, None])


def positive_thresholds(matched: Tensor, matches: Matches, tolerance: float, ties: Ties) -> Tensor:
    """Return the score that a negative must reach to rank before each positive.

    Args:
        matched: (Q, M) float32 scores of the matches.
        matches: Gallery indices of these matches, and which of them are positives.
        tolerance: Scores that differ by no more than this are tied.
        ties: Whether negatives rank before or after positives at a tie.

    Returns:
        (Q, M) float32: the thresholds of the positives, descending; then infinity.
    """
    ascending = (-matched).masked_fill_(~matches.positive, torch.inf)
    if ascending.device.type == "cpu":
        ascending.numpy().sort(axis=1)
    else:
        ascending = ascending.sort(dim=1).values
    padding = ascending == torch.inf
    thresholds = ascending.neg_()
    if ties == "pessimistic":
        thresholds -= tolerance
    else:
        thresholds = torch.nextafter(thresholds + tolerance, thresholds.new_tensor(torch.inf))
    return thresholds.masked_fill_(padding, torch.inf)


def count_reaching(scores: Tensor, thresholds: Tensor, workers: int = 1) -> Tensor:
    """Count the scores of each row that are at least as large as each of the row's thresholds.

    Args:
        scores: (Q, G) float32, finite or minus infinity.
        thresholds: (Q, M) float32, not NaN.
        workers: Number of threads, on the CPU.

    Returns:
        (Q, M) int64.
    """
    if scores.device.type != "cpu":
        return scores.shape[1] - torch.searchsorted(scores.sort(dim=1).values, thresholds)
    # NumPy's sort of float32 is vectorized and about 30 times as fast as torch's. Only candidates have to be sorted:
    # the scores that reach a row's lowest threshold.
    rows, lowest = scores.numpy(), thresholds.numpy().min(axis=1, keepdims=True)
    step = max(1, _PART_BYTES // (4 * rows.shape[1]))
    parts = [slice(start, start + step) for start in range(0, len(rows), step)]
    candidates = np.concatenate(parallel_map(lambda part: _candidates(rows[part], lowest[part]), parts, workers))
    candidate_count = np.bitwise_count(candidates).sum(axis=1, dtype=np.intp)
    reaching = torch.empty(thresholds.shape, dtype=torch.int64)
    order = candidate_count.argsort()  # groups rows with about the same number of candidates

    def count_part(part: slice) -> None:
        selected = order[part]
        most = int(candidate_count[selected[-1]])
        if most * _SPARSE < rows.shape[1]:
            best = _gather_candidates(rows, selected, candidates[selected], candidate_count[selected])
        else:
            best = _largest(rows[selected], most)
        best.sort(axis=1)
        reaching[selected] = best.shape[1] - torch.searchsorted(torch.from_numpy(best), thresholds[selected])

    parallel_map(count_part, parts, workers)
    return reaching


def _candidates(rows: FloatArray, lowest: FloatArray) -> ByteArray:
    """Return which entries of (R, G) rows reach (R, 1) thresholds, packed into bits: (R, ceil(G / 8))."""
    return np.packbits(rows >= lowest, axis=1)


def _gather_candidates(rows: FloatArray, selected: IntArray, candidates: ByteArray, counts: IntArray) -> FloatArray:
    """Return the candidates of the selected rows, left-aligned and padded with minus infinity."""
    byte = np.flatnonzero(candidates)
    bit = np.flatnonzero(np.unpackbits(candidates.ravel()[byte]))
    row, byte_in_row = np.divmod(byte, candidates.shape[1])
    first = selected[row] * rows.shape[1] + 8 * byte_in_row
    gathered = np.full((len(selected), max(1, int(counts.max()))), -np.inf, dtype=np.float32)
    gathered[np.arange(gathered.shape[1]) < counts[:, None]] = rows.ravel()[first[bit >> 3] + (bit & 7)]
    return gathered


def _largest(rows: FloatArray, count: int) -> FloatArray:
    """Return the `count` largest entries of each of (R, G) rows in any order, or all if these are most of the row.

    The rows are reordered in place.
    """
    if 4 * count > 3 * rows.shape[1]:
        return rows
    first = rows.shape[1] - max(1, count)
    rows.partition(first, axis=1)
    return np.ascontiguousarray(rows[:, first:])
