"""A figure over several seeds."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Statistic:
    """Mean and sample standard deviation (n - 1); `std` is None for a single value."""

    mean: float
    std: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The statistic of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    @classmethod
    def where_known(cls, values: Iterable[float | None]) -> Self | None:
        """The statistic of `values`, or None where one of them is missing: a mean over fewer seeds would mislead."""
        given = list(values)
        known = [value for value in given if value is not None]
        return cls.of(known) if known and len(known) == len(given) else None
