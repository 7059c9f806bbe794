"""One answer to a query."""

from typing import NamedTuple

from benchmark.data.sample import Sample


class Entry(NamedTuple):
    """A gallery image in the ranked list of a query."""

    sample: Sample
    rank: int | None
    """Counted from 1 among what is not ignored; None for what is."""
    similarity: float
    """Minus the distance where the list was re-ranked."""
    relation: int
    """1 for a correct answer, 0 for a wrong one, -1 for what the protocol ignores."""
