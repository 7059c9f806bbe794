"""Where the correct answers stand in each query's ranked gallery."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from benchmark.retrieval.counting import count_reaching
from benchmark.retrieval.matches import Matches
from benchmark.retrieval.neighbours import Neighbours
from benchmark.retrieval.protocol import Ties


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
        thresholds = positive_thresholds(scores.gather(1, matches.columns), matches, tolerance, ties)
        scores.scatter_(1, matches.columns, -torch.inf)
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
