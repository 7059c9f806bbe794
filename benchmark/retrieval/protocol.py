"""Evaluation settings of a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal, get_args

from benchmark.retrieval.reranking import KReciprocal, QueryExpansion

AveragePrecision = Literal["rectangular", "trapezoid"]
Ties = Literal["pessimistic", "optimistic"]


@dataclass(frozen=True, slots=True)
class Protocol:
    """Evaluation settings: what is ranked, which gallery entries are correct matches, and how a ranking is scored.

    Raises:
        ValueError: A setting has an unknown value, or two settings exclude each other.
    """

    camera_rule: bool = True
    """Ignore gallery images that share both identity and camera with the query, as in re-identification."""
    query_in_gallery: bool = False
    """Query and gallery are the same list, and each query is removed from its own ranking, as in metric learning."""
    recall_at: tuple[int, ...] = (1, 5, 10)
    """Every K of Recall@K and Precision@K."""
    average_precision: AveragePrecision = "rectangular"
    """How the area under the precision-recall curve is computed.

    `rectangular` sums rectangles and is the default of the field. `trapezoid` interpolates linearly, as the evaluation
    code published with Oxford Buildings, Market-1501 and VeRi-776 does.
    """
    tracks: bool = False
    """Rank tracks instead of images. The similarity of a track is the highest similarity of its images."""
    junk: tuple[int, ...] = ()
    """Identities whose gallery images are ignored for every query, such as -1 in Market-1501."""
    distractors: tuple[int, ...] = ()
    """Identities that are in the gallery but never a correct match, such as 0 in Market-1501."""
    ties: Ties = "pessimistic"
    """Whether a negative ranks before (`pessimistic`) or after (`optimistic`) a positive of the same similarity."""
    expansion: QueryExpansion | None = None
    """Query expansion before the search."""
    reranking: KReciprocal | None = None
    """k-reciprocal re-ranking after the search."""

    def for_validation(self) -> "Protocol":
        """Return the settings for validation images: each of them searches all others, without re-ranking."""
        return replace(self, query_in_gallery=True, tracks=False, reranking=None)

    def __post_init__(self) -> None:
        for name, values in (("average_precision", get_args(AveragePrecision)), ("ties", get_args(Ties))):
            if getattr(self, name) not in values:
                raise ValueError(f"{name} must be {' or '.join(values)}, not {getattr(self, name)!r}")
        for name in ("recall_at", "junk", "distractors"):
            numbers = getattr(self, name)
            if not isinstance(numbers, Sequence) or not all(isinstance(number, Integral) for number in numbers):
                raise ValueError(f"{name} must be a tuple of integers, not {numbers!r}")
            object.__setattr__(self, name, tuple(map(int, numbers)))
        if self.tracks and self.query_in_gallery:
            raise ValueError("tracks and query_in_gallery exclude each other: queries are images, not tracks")
        if self.reranking is not None and self.query_in_gallery:
            raise ValueError(
                "reranking and query_in_gallery exclude each other: every query would be its own nearest neighbor"
            )
        if not self.recall_at or min(self.recall_at) < 1:
            raise ValueError(f"recall_at must contain at least one K, all of them at least 1, not {self.recall_at}")
