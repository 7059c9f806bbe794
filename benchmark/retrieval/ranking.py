"""Where the correct answers stand in each query's ranked gallery."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from benchmark.retrieval import chunks
from benchmark.retrieval.matches import Matches

_CANDIDATE_BYTES = 32
"""What the tensors of `_negatives_before` occupy per candidate."""


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
    def from_scores(cls, scores: Tensor, matches: Matches, tolerance: float = 0.0) -> Self:
        """Rank by (Q, G) float32 `scores`, higher for more alike, without NaN.

        Ties count against the query: a negative that scores no more than `tolerance` below a positive comes before it.
        Sorting by score alone leaves ties to the order of the gallery, by which a model that gives every image the same
        embedding can look good.
        """
        matched = scores.gather(1, matches.columns) - tolerance
        lowest = matched.masked_fill(~matches.positive, torch.inf).amin(dim=1, keepdim=True)
        thresholds = matched.masked_fill(~matches.positive, -torch.inf).sort(dim=1, descending=True).values
        # Only a negative that reaches the lowest positive can stand before any: a small share, in a trained model.
        candidates = (scores >= lowest).scatter_(1, matches.columns, False)
        negatives = _negatives_before(scores, candidates, thresholds)
        positives = matches.positive.sum(dim=1)
        order = torch.arange(1, thresholds.shape[1] + 1, device=scores.device)
        return cls((negatives + order) * (order <= positives[:, None]), positives)


def _negatives_before(scores: Tensor, candidates: Tensor, thresholds: Tensor) -> Tensor:
    """Count, for each of the (Q, M) descending `thresholds`, the candidates that score at least as much.

    The candidates, marked in a (Q, G) mask, are picked out of all rows at once and each is looked up among the
    thresholds of its row. Where they are too many to be handled together, the queries are halved.
    """
    queries, width = thresholds.shape
    if queries > 1 and int(candidates.count_nonzero()) * _CANDIDATE_BYTES > chunks.CHUNK_BYTES:
        halves = zip(*(tensor.tensor_split(2) for tensor in (scores, candidates, thresholds)), strict=True)
        return torch.cat([_negatives_before(*half) for half in halves])
    picked = candidates.flatten().nonzero().squeeze(1)
    found = _descending_keys(scores.take(picked))
    # With its row in the upper half of an integer, every number can be looked up in one sorted list.
    keys = picked.div_(scores.shape[1], rounding_mode="floor").bitwise_left_shift_(32).add_(found)
    rows = torch.arange(queries, device=scores.device)[:, None]
    boundaries = rows.bitwise_left_shift(32) + _descending_keys(thresholds)
    slots = torch.searchsorted(boundaries.flatten(), keys)
    return torch.bincount(slots, minlength=queries * width).view(queries, width).cumsum(dim=1)


def _descending_keys(values: Tensor) -> Tensor:
    """Map float32 to int32 such that a larger number gets a smaller key and equal numbers, as 0 and -0, the same.

    The bits of a float are a sign and a magnitude that grows with its absolute value.
    """
    bits = values.view(torch.int32)
    magnitude = bits & 0x7FFFFFFF
    return torch.where(bits < 0, magnitude, -magnitude)
