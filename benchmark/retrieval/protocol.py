"""How a dataset is evaluated."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Protocol:
    """The rules by which a ranked list is judged."""

    camera_rule: bool = True
    """Ignore gallery images that share both identity and camera with the query (re-identification)."""
    query_in_gallery: bool = False
    """Query and gallery are one list; each query is removed from its own ranking (metric learning)."""
    recall_at: tuple[int, ...] = (1, 5, 10)
    """The K of Recall@K, the share of queries with a correct match among the first K (CMC)."""
