"""Ranks of the correct answers, and the metrics computed from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.retrieval._matching import Matches, Neighbours
from benchmark.retrieval.protocol import AveragePrecision, Ties
from benchmark.utils.parallel import parallel_map

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
    candidates = np.concatenate(parallel_map(lambda part: _candidates(rows[part], lowest[part]), parts, workers))
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

    parallel_map(compare, parts, workers)
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


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Ranks of the positives of Q queries among the gallery entries that the protocol does not ignore.

    Every metric of a ranked list follows from these; the list itself is never made.
    """

    ranks: Tensor
    """(Q, M) int64, counted from 1, ascending; 0 after a query's last positive."""
    positives: Tensor
    """(Q,) int64: how many positives each query has."""

    @classmethod
    def from_scores(
        cls,
        scores: Tensor,
        matches: Matches,
        tolerance: float = 0.0,
        ties: Ties = "pessimistic",
        workers: int = 1,
    ) -> Self:
        """Rank by (Q, G) float32 `scores`, higher for more alike, finite. They are overwritten.

        Ties count against the query: a negative that scores no more than `tolerance` below a positive comes before it.
        Sorting by score alone leaves ties to the order of the gallery, by which a model that gives every image the same
        embedding can look good. With "optimistic" ties, it has to score more than `tolerance` above the positive.
        On the CPU, so many `workers` count them.
        """
        thresholds = positive_thresholds(scores.gather(1, matches.gallery_index), matches, tolerance, ties)
        scores.scatter_(1, matches.gallery_index, -torch.inf)
        return cls.from_counts(count_reaching(scores, thresholds, workers), matches)

    @classmethod
    def from_counts(cls, negatives: Tensor, matches: Matches) -> Self:
        """Rank by how many negatives stand before each positive, (Q, M) int64 in ascending order."""
        positives = matches.positive.sum(dim=1)
        order = torch.arange(1, negatives.shape[1] + 1, device=negatives.device)
        return cls((negatives + order) * (order <= positives[:, None]), positives)


def positive_thresholds(matched: Tensor, matches: Matches, tolerance: float, ties: Ties) -> Tensor:
    """What a negative has to score to stand before each positive: (Q, M) float32, descending, then infinity.

    Args:
        matched: (Q, M) float32 scores of the matches.
        matches: Says which of them are positives.
        tolerance: Scores no further apart than this are tied.
        ties: Who stands before whom at a tie.
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


Record = Callable[[slice, Ranking, Neighbours | None], None]
"""Takes the ranking of these rows of the query list, and the first entries of it where they are kept."""


def average_precision(ranking: Ranking, rule: AveragePrecision = "rectangular") -> Tensor:
    """Area under a query's precision-recall curve over the whole list: (Q,) float64, NaN without positives.

    With r_k the rank of the k-th of n positives, "rectangular" is the mean over k of k / r_k: the rule of the
    re-identification evaluators (fast-reid, torchreid). "trapezoid" is the mean over k of the average of k / r_k and
    the precision one rank before, (k - 1) / (r_k - 1), which is 1 at the top of the list: the rule of the Matlab code
    published with Market-1501 and VeRi-776, and of the Oxford buildings benchmark.
    """
    precision = _precision_at_hits(ranking)
    if rule == "trapezoid":
        before = (_order(ranking) - 1) / (ranking.ranks - 1).clamp_min(1).double()
        precision = (precision + before.masked_fill(ranking.ranks == 1, 1.0)) / 2
    return ((ranking.ranks > 0) * precision).sum(dim=1) / ranking.positives


def average_precision_at_r(ranking: Ranking) -> Tensor:
    """The mean over the first R ranks of the precision there, which counts at correct answers alone; R positives.

    (Q,) float64, NaN without positives. Its mean is MAP@R (Musgrave, Belongie, Lim, A Metric Learning Reality Check,
    ECCV 2020), as in pytorch-metric-learning: 1 / R times the sum over the hits r_k <= R of k / r_k.
    """
    return (_found(ranking) * _precision_at_hits(ranking)).sum(dim=1) / ranking.positives


def r_precision(ranking: Ranking) -> Tensor:
    """The share of correct answers among the first R ranks; R positives: (Q,) float64, NaN without positives."""
    return _found(ranking).sum(dim=1) / ranking.positives.double()


def precision_at(ranking: Ranking, ks: Sequence[int]) -> Tensor:
    """The share of correct answers among the first K ranks, for each K: (Q, len(ks)) float64, NaN without positives.

    A list shorter than K is filled up with wrong answers.
    """
    first = ranking.ranks[:, : max(ks)]  # no later positive stands among the first K
    columns = [((first > 0) & (first <= k)).sum(dim=1).double() / k for k in ks]
    return torch.stack(columns, dim=1).masked_fill_(ranking.positives[:, None] == 0, torch.nan)


def inverse_negative_penalty(ranking: Ranking) -> Tensor:
    """Number of positives over the rank of the last of them: (Q,) float64, NaN without positives.

    Its mean is mINP (Ye et al., Deep Learning for Person Re-identification: A Survey and Outlook, TPAMI 2021).
    """
    return ranking.positives.double() / ranking.ranks.amax(dim=1)


def first_match_rank(ranking: Ranking) -> Tensor:
    """Rank of the first positive, on which Recall@K (CMC) rests: (Q,) int64, 0 without positives."""
    return ranking.ranks[:, 0]


def _order(ranking: Ranking) -> Tensor:
    return torch.arange(1, ranking.ranks.shape[1] + 1, device=ranking.ranks.device)


def _precision_at_hits(ranking: Ranking) -> Tensor:
    """(Q, M) float64: k / r_k, and something else after the last positive."""
    return _order(ranking) / ranking.ranks.clamp_min(1).double()


def _found(ranking: Ranking) -> Tensor:
    """(Q, M) bool: which positives stand among the first R ranks."""
    return (ranking.ranks > 0) & (ranking.ranks <= ranking.positives[:, None])
