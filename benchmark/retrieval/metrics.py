"""Metrics of a ranked list, one value per query."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.retrieval.protocol import AveragePrecision
from benchmark.retrieval.ranking import Ranking


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


def first_hit(ranking: Ranking) -> Tensor:
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
