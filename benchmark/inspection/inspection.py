"""Choosing the queries that are worth a look."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmark.data.sample import Sample
from benchmark.errors import UserError
from benchmark.inspection.comparison import Comparison
from benchmark.inspection.inspected_query import InspectedQuery
from benchmark.inspection.ranked_list import RankedList
from benchmark.inspection.summary import Summary
from benchmark.retrieval import Scores


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
