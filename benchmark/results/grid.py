"""A table that pages of every format show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tabulate import tabulate


@dataclass(frozen=True, slots=True)
class Grid:
    """Headers and cells in Markdown."""

    headers: Sequence[str]
    methods: Sequence[str]
    """Whose row it is."""
    cells: Sequence[Sequence[str]]
    """By row."""
    numbers: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """By which a column sorts, by its header; None for a cell that comes last. Other columns sort by their text."""

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        return tabulate(self.cells, self.headers, tablefmt="github", disable_numparse=True)
