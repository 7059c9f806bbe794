"""A query and its answers."""

from dataclasses import dataclass

from benchmark.data.sample import Sample
from benchmark.inspection.ranked_list import RankedList


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
