"""Metrics of a ranked list, one value per query."""

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
    found = ranking.ranks > 0
    order = torch.arange(1, ranking.ranks.shape[1] + 1, device=ranking.ranks.device)
    precision = order / ranking.ranks.clamp_min(1).double()
    if rule == "trapezoid":
        before = (order - 1) / (ranking.ranks - 1).clamp_min(1).double()
        precision = (precision + before.masked_fill(ranking.ranks == 1, 1.0)) / 2
    return (found * precision).sum(dim=1) / ranking.positives


def inverse_negative_penalty(ranking: Ranking) -> Tensor:
    """Number of positives over the rank of the last of them: (Q,) float64, NaN without positives.

    Its mean is mINP (Ye et al., Deep Learning for Person Re-identification: A Survey and Outlook, TPAMI 2021).
    """
    return ranking.positives.double() / ranking.ranks.amax(dim=1)


def first_hit(ranking: Ranking) -> Tensor:
    """Rank of the first positive, on which Recall@K (CMC) rests: (Q,) int64, 0 without positives."""
    return ranking.ranks[:, 0]
