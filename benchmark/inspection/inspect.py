"""The queries that a run answers worst."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from benchmark.data.samples import Sample
from benchmark.errors import UserError
from benchmark.retrieval import Scores


class Entry(NamedTuple):
    """A gallery image in the ranked list of a query."""

    sample: Sample
    rank: int | None
    """Counted from 1 among what is not ignored; None for what is."""
    similarity: float
    """Minus the distance where the list was re-ranked."""
    relation: int
    """1 for a correct answer, 0 for a wrong one, -1 for what the protocol ignores."""


@dataclass(frozen=True, slots=True)
class RankedList:
    """The first entries of a ranked list, and how the whole list scores."""

    average_precision: float
    """A fraction from 0 to 1."""
    first_match_rank: int
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
        return cls(scores.average_precision[row].item(), int(scores.first_match_rank[row]), tuple(entries))


@dataclass(frozen=True, slots=True)
class InspectedQuery:
    """A query with the student's ranked list, and the teacher's where there is one."""

    sample: Sample
    positives: int
    """How many correct answers the gallery holds under the protocol."""
    student: RankedList
    teacher: RankedList | None

    @property
    def difference(self) -> float | None:
        """The student's average precision minus the teacher's, from -1 to 1; None without a teacher."""
        return None if self.teacher is None else self.student.average_precision - self.teacher.average_precision


@dataclass(frozen=True, slots=True)
class Comparison:
    """On how many queries the student's average precision is higher than the teacher's, the same, and lower."""

    better: int
    equal: int
    worse: int

    @classmethod
    def of(cls, difference: Tensor) -> Self:
        """From (Q,) differences, the student's average precision minus the teacher's; NaN for skipped queries."""
        return cls(int((difference > 0).sum()), int((difference == 0).sum()), int((difference < 0).sum()))


BINS = 10


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over the queries that count, and how their average precision is spread."""

    mAP: float
    """A fraction from 0 to 1."""
    recall: dict[int, float]
    """Recall@K by K, fractions from 0 to 1."""
    histogram: tuple[int, ...]
    """How many queries have an average precision in each of `BINS` equal parts of [0, 1]; 1 is in the last."""

    @classmethod
    def of(cls, scores: Scores) -> Self:
        parts = (scores.average_precision[scores.valid] * BINS).long().clamp(max=BINS - 1)
        return cls(scores.mAP, scores.recall, tuple(parts.bincount(minlength=BINS).tolist()))


@dataclass(frozen=True, slots=True)
class Inspection:
    """The worst queries of a student, those that it lost against its teacher, and figures over all queries.

    Without a teacher, `teacher` and `comparison` are None and `lost` is empty.
    """

    worst: tuple[InspectedQuery, ...]
    """Those with the student's lowest average precision, ascending; the first of equals in the list of queries."""
    lost: tuple[InspectedQuery, ...]
    """Those on which the student is below the teacher, the largest difference of average precision first."""
    queries: int
    """All of them, those skipped included."""
    skipped: int
    """How many have no correct answer under the protocol, and count nowhere."""
    student: Summary
    teacher: Summary | None
    comparison: Comparison | None


def inspect(
    query: Sequence[Sample], gallery: Sequence[Sample], student: Scores, teacher: Scores | None, worst: int
) -> Inspection:
    """The `worst` queries of a student, and at most as many that it lost against its teacher.

    Args:
        query: What the rows of both scores stand for.
        gallery: What the columns of their neighbours stand for: the queries, where both are one list; an image of each
            track, where tracks are ranked.
        student: Scores with neighbours.
        teacher: The same queries' scores by the teacher, with neighbours; None where there is no teacher.
        worst: How many queries, at least 1; all, where there are fewer.

    Raises:
        UserError: `worst` is not positive.
        ValueError: The lists and scores do not fit each other, or scores have no neighbours.
    """
    if worst < 1:
        raise UserError(f"at least 1 query is inspected, not {worst}")
    for whose, scores in (("student", student), ("teacher", teacher)):
        if scores is not None:
            _require_fitting(whose, scores, query, gallery)
    if teacher is not None and not torch.equal(student.positives, teacher.positives):
        raise ValueError("student and teacher were not scored on the same queries and gallery")

    def inspected(row: int) -> InspectedQuery:
        answers = RankedList.of(student, row, gallery)
        teachers = None if teacher is None else RankedList.of(teacher, row, gallery)
        return InspectedQuery(query[row], int(student.positives[row]), answers, teachers)

    skipped_last = student.average_precision.nan_to_num(torch.inf)
    lowest = skipped_last.argsort(stable=True)[: min(worst, student.queries - student.skipped)]
    lost: list[int] = []
    comparison = None
    if teacher is not None:
        difference = student.average_precision - teacher.average_precision
        comparison = Comparison.of(difference)
        most = difference.nan_to_num(torch.inf).argsort(stable=True)[: min(worst, comparison.worse)]
        lost = most.tolist()
    return Inspection(
        worst=tuple(inspected(row) for row in lowest.tolist()),
        lost=tuple(inspected(row) for row in lost),
        queries=student.queries,
        skipped=student.skipped,
        student=Summary.of(student),
        teacher=None if teacher is None else Summary.of(teacher),
        comparison=comparison,
    )


def _require_fitting(whose: str, scores: Scores, query: Sequence[Sample], gallery: Sequence[Sample]) -> None:
    if scores.neighbours is None:
        raise ValueError(f"the {whose}'s scores have no neighbours: evaluate with `keep`")
    if scores.queries != len(query):
        raise ValueError(f"the {whose} has scores of {scores.queries} queries, not of {len(query)}")
    columns = scores.neighbours.columns
    if columns.numel() and int(columns.max()) >= len(gallery):
        raise ValueError(f"the {whose}'s neighbours name entry {int(columns.max())} of a gallery of {len(gallery)}")
