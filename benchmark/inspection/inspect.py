"""Selection of the queries to inspect: those with the lowest AP, and those furthest below the teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch

from benchmark.data.samples import Sample
from benchmark.retrieval import Scores

BINS = 10
"""Number of bins of the histogram of average precision."""


class Entry(NamedTuple):
    """A gallery image in the ranked list of a query."""

    sample: Sample
    rank: int | None
    """Rank from 1 among the entries that the protocol does not ignore; None for an ignored entry."""
    similarity: float
    """Similarity to the query; the negated distance if the list was re-ranked."""
    relevance: int
    """1 for a correct match, 0 for a wrong match, -1 if the protocol ignores the image (junk)."""


@dataclass(frozen=True, slots=True)
class RankedList:
    """The top of a query's ranked list, with scores over the complete list."""

    average_precision: float
    """A fraction from 0 to 1."""
    first_match_rank: int
    """Rank of the first correct match, which may lie below the last entry."""
    entries: tuple[Entry, ...]
    """The most similar gallery images in descending order of similarity, ignored ones included."""

    @classmethod
    def of(cls, scores: Scores, row: int, gallery: Sequence[Sample]) -> Self:
        """Return the list of the query at index `row`; the neighbors of `scores` are indices into `gallery`."""
        neighbors = scores.neighbors
        assert neighbors is not None
        columns = (neighbors.gallery_index, neighbors.similarity, neighbors.relevance)
        entries: list[Entry] = []
        rank = 0
        for index, similarity, relevance in zip(*(column[row].tolist() for column in columns), strict=True):
            rank += relevance >= 0
            entries.append(Entry(gallery[index], rank if relevance >= 0 else None, similarity, relevance))
        return cls(scores.average_precision[row].item(), int(scores.first_match_rank[row]), tuple(entries))

    @property
    def first(self) -> Entry | None:
        """The entry at rank 1; None if all entries are ignored."""
        return next((entry for entry in self.entries if entry.rank == 1), None)


@dataclass(frozen=True, slots=True)
class InspectedQuery:
    """A query with the ranked lists of the student and, if there is one, the teacher."""

    sample: Sample
    positives: int
    """Number of correct matches in the gallery under the protocol."""
    student: RankedList
    teacher: RankedList | None

    @property
    def difference(self) -> float | None:
        """The student's average precision minus the teacher's, from -1 to 1; None without a teacher."""
        return None if self.teacher is None else self.student.average_precision - self.teacher.average_precision


@dataclass(frozen=True, slots=True)
class Summary:
    """Scores of one network over all evaluated queries."""

    mAP: float
    """A fraction from 0 to 1."""
    recall: dict[int, float]
    """Recall@K by K, fractions from 0 to 1."""
    histogram: tuple[int, ...]
    """Number of queries per bin of average precision: `BINS` equal bins of [0, 1], the last of which includes 1."""

    @classmethod
    def of(cls, scores: Scores) -> Self:
        """Summarize the queries that have a correct match."""
        bins = (scores.average_precision[scores.valid] * BINS).long().clamp(max=BINS - 1)
        return cls(scores.mAP, scores.recall, tuple(bins.bincount(minlength=BINS).tolist()))


class PairedCounts(NamedTuple):
    """Number of queries on which the student's average precision is above, equal to and below the teacher's."""

    higher: int
    equal: int
    lower: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """Selected queries of a student and statistics over all queries.

    Without a teacher, `teacher` and `comparison` are None and `drops` is empty.
    """

    worst: tuple[InspectedQuery, ...]
    """The queries with the student's lowest average precision, ascending; ties in the order of the query list."""
    drops: tuple[InspectedQuery, ...]
    """The queries on which the student is below the teacher, largest difference of average precision first."""
    queries: int
    """Number of queries, including the skipped ones."""
    skipped: int
    """Number of queries without a correct match under the protocol. They are excluded from all scores."""
    student: Summary
    teacher: Summary | None
    comparison: PairedCounts | None


def inspect(
    query: Sequence[Sample],
    gallery: Sequence[Sample],
    *,
    student: Scores,
    teacher: Scores | None = None,
    count: int,
) -> Inspection:
    """Select the queries with the lowest average precision and those furthest below the teacher.

    Args:
        query: The query images, one for each row of the scores.
        gallery: The images that the scores' neighbors index: the gallery, the queries themselves if the protocol uses
            one list for both, or one image of each track if tracks are ranked.
        student: Scores of the student, with neighbors.
        teacher: Scores of the teacher on the same queries and gallery, with neighbors; None without a teacher.
        count: Maximum number of queries in each of the two selections; at least 1.

    Raises:
        ValueError: `count` is not positive, the lists and scores do not fit each other, or scores have no neighbors.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    _check(student, "student", query, gallery)
    if teacher is not None:
        _check(teacher, "teacher", query, gallery)
        if not torch.equal(student.positives, teacher.positives):
            raise ValueError("student and teacher were scored on different queries or galleries")

    def select(rows: torch.Tensor) -> tuple[InspectedQuery, ...]:
        return tuple(
            InspectedQuery(
                query[row],
                int(student.positives[row]),
                RankedList.of(student, row, gallery),
                None if teacher is None else RankedList.of(teacher, row, gallery),
            )
            for row in rows.tolist()
        )

    # Skipped queries have an average precision of NaN; as infinity they come last.
    lowest = student.average_precision.nan_to_num(torch.inf).argsort(stable=True)
    worst = lowest[: min(count, student.queries - student.skipped)]
    drops = lowest[:0]
    comparison = None
    if teacher is not None:
        difference = student.average_precision - teacher.average_precision
        comparison = PairedCounts(
            higher=int((difference > 0).sum()),
            equal=int((difference == 0).sum()),
            lower=int((difference < 0).sum()),
        )
        drops = difference.nan_to_num(torch.inf).argsort(stable=True)[: min(count, comparison.lower)]
    return Inspection(
        worst=select(worst),
        drops=select(drops),
        queries=student.queries,
        skipped=student.skipped,
        student=Summary.of(student),
        teacher=None if teacher is None else Summary.of(teacher),
        comparison=comparison,
    )


def _check(scores: Scores, name: str, query: Sequence[Sample], gallery: Sequence[Sample]) -> None:
    if scores.neighbors is None:
        raise ValueError(f"the scores of the {name} have no neighbors: call `evaluate` with `keep`")
    if scores.queries != len(query):
        raise ValueError(
            f"the scores of the {name} are of {scores.queries} queries, but {len(query)} queries are given"
        )
    indices = scores.neighbors.gallery_index
    if indices.numel() and int(indices.max()) >= len(gallery):
        raise ValueError(
            f"the neighbors of the {name} include index {int(indices.max())}, but the gallery has {len(gallery)} images"
        )
