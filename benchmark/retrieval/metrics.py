"""Metrics of a ranked list, one value per query."""

import torch
from torch import Tensor

from benchmark.retrieval.ranking import Ranking


def average_precision(ranking: Ranking) -> Tensor:
    """Mean over a query's positives of the precision at their rank: (Q,) float64, NaN without positives.

    The rectangular rule of the re-identification evaluators (fast-reid, torchreid), over the whole list.
    """
    order = torch.arange(1, ranking.ranks.shape[1] + 1, device=ranking.ranks.device)
    precision = (ranking.ranks > 0) * order / ranking.ranks.clamp_min(1).double()
    return precision.sum(dim=1) / ranking.positives


def inverse_negative_penalty(ranking: Ranking) -> Tensor:
    """Number of positives over the rank of the last of them: (Q,) float64, NaN without positives.

    Its mean is mINP (Ye et al., Deep Learning for Person Re-identification: A Survey and Outlook, TPAMI 2021).
    """
    return ranking.positives.double() / ranking.ranks.amax(dim=1)


def first_hit(ranking: Ranking) -> Tensor:
    """Rank of the first positive, on which Recall@K (CMC) rests: (Q,) int64, 0 without positives."""
    return ranking.ranks[:, 0]
