"""How a dataset is evaluated."""

from dataclasses import dataclass
from typing import Literal

AveragePrecision = Literal["rectangular", "trapezoid"]


@dataclass(frozen=True, slots=True)
class Protocol:
    """The rules by which a ranked list is judged."""

    camera_rule: bool = True
    """Ignore gallery images that share both identity and camera with the query (re-identification)."""
    query_in_gallery: bool = False
    """Query and gallery are one list; each query is removed from its own ranking (metric learning)."""
    recall_at: tuple[int, ...] = (1, 5, 10)
    """The K of Recall@K, the share of queries with a correct match among the first K (CMC)."""
    average_precision: AveragePrecision = "rectangular"
    """The area under a precision-recall curve: of steps (the default of the field), or of straight lines between its
    points (the evaluation code that Oxford buildings, Market-1501 and VeRi-776 were published with)."""
    tracks: bool = False
    """Rank tracks instead of images; a track is as similar to a query as the most similar of its images."""

    def __post_init__(self) -> None:
        if self.tracks and self.query_in_gallery:
            raise ValueError("tracks and query_in_gallery exclude each other: a query is no track")
