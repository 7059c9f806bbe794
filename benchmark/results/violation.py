"""What is wrong with a record."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """A field of a record that cannot be what a run has left: what it holds, and what it would have to."""

    field: str
    found: object
    expected: object

    def __str__(self) -> str:
        return f"{self.field} is {self.found}, expected {self.expected}"
