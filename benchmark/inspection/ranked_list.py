"""What one network answered to one query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from benchmark.data.sample import Sample
from benchmark.inspection.entry import Entry
from benchmark.retrieval import Scores


@dataclass(frozen=True, slots=True)
class RankedList:
    """The first entries of a ranked list, and how the whole list scores."""

    average_precision: float
    """A fraction from 0 to 1."""
    first_hit: int
    """The rank of the first correct answer, which may come after the last entry."""
    entries: tuple[Entry, ...]
    """The most similar first; what the protocol ignores is among them."""

    @classmethod
    def of(cls, scores: Scores, row: int, gallery: Sequence[Sample]) -> Self:
        """The list of the query at position `row`; `scores` have neighbours, whose columns index `gallery`."""
        assert scores.neighbours is not None
        entries: list[Entry] = []
        counted = 0
        columns, similarities, relations = (
            getattr(scores.neighbours, name)[row].tolist() for name in ("columns", "similarity", "relation")
        )
        for column, similarity, relation in zip(columns, similarities, relations, strict=True):
            counted += relation >= 0
            entries.append(Entry(gallery[column], counted if relation >= 0 else None, similarity, relation))
        return cls(scores.average_precision[row].item(), int(scores.first_hit[row]), tuple(entries))
