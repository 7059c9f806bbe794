"""How a dataset is evaluated."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

from benchmark.retrieval.reranking import KReciprocal, QueryExpansion

AveragePrecision = Literal["rectangular", "trapezoid"]
Ties = Literal["pessimistic", "optimistic"]


@dataclass(frozen=True, slots=True)
class Protocol:
    """The rules by which a ranked list is judged.

    Raises ValueError, with the name of the rule, for one that there is not, or that excludes another.
    """

    camera_rule: bool = True
    """Ignore gallery images that share both identity and camera with the query (re-identification)."""
    query_in_gallery: bool = False
    """Query and gallery are one list; each query is removed from its own ranking (metric learning)."""
    recall_at: tuple[int, ...] = (1, 5, 10)
    """The K of Recall@K, the share of queries with a correct match among the first K (CMC), and of Precision@K."""
    average_precision: AveragePrecision = "rectangular"
    """The area under a precision-recall curve: of steps (the default of the field), or of straight lines between its
    points (the evaluation code that Oxford buildings, Market-1501 and VeRi-776 were published with)."""
    tracks: bool = False
    """Rank tracks instead of images; a track is as similar to a query as the most similar of its images."""
    junk: tuple[int, ...] = ()
    """Identities whose gallery images are ignored, whoever asks, as Market-1501's -1."""
    distractors: tuple[int, ...] = ()
    """Identities that are nobody's, as Market-1501's 0: their gallery images are wrong answers to every query."""
    ties: Ties = "pessimistic"
    """Whether a wrong answer as similar as a correct one is ranked before it, or behind."""
    expansion: QueryExpansion | None = None
    """Replace every query by the mean of itself and its nearest gallery images."""
    reranking: KReciprocal | None = None
    """Rank anew by the neighbours that query and gallery images share."""

    def __post_init__(self) -> None:
        for name, offered in (("average_precision", get_args(AveragePrecision)), ("ties", get_args(Ties))):
            if getattr(self, name) not in offered:
                raise ValueError(f"{name} must be {' or '.join(offered)}, not {getattr(self, name)!r}")
        for name in ("recall_at", "junk", "distractors"):
            numbers = getattr(self, name)
            if not isinstance(numbers, Sequence) or not all(isinstance(number, Integral) for number in numbers):
                raise ValueError(f"{name} must be a tuple of whole numbers, not {numbers!r}")
            object.__setattr__(self, name, tuple(map(int, numbers)))
        if self.tracks and self.query_in_gallery:
            raise ValueError("tracks and query_in_gallery exclude each other: a query is no track")
        if self.reranking is not None and self.query_in_gallery:
            raise ValueError("reranking and query_in_gallery exclude each other: an image would be its own neighbour")
        if not self.recall_at or min(self.recall_at) < 1:
            raise ValueError(f"recall_at must name ranks from 1, not {self.recall_at}")
