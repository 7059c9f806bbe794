"""Queries of which it is known how many correct answers they have."""

from torch import Tensor


class JudgedQueries:
    """What all outcomes of an evaluation say of their queries; a base for dataclasses."""

    __slots__ = ()
    positives: Tensor

    @property
    def valid(self) -> Tensor:
        """(Q,) bool: which queries have a correct answer, and count."""
        return self.positives > 0

    @property
    def queries(self) -> int:
        """How many queries there were, those skipped included."""
        return len(self.positives)

    @property
    def skipped(self) -> int:
        """How many of them had no positive left under the protocol and count in no mean."""
        return int((~self.valid).sum())

    def mean(self, values: Tensor) -> float:
        """Over the queries that count, of (Q,) floating-point values."""
        return values[self.valid].mean().item()
