"""A student against its teacher, query by query."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor


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
