"""What a check of a dataset found."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from tabulate import tabulate

from benchmark.data.card import Split


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Expected against found; printing it gives the tree, a table, the notes and the first differences."""

    folder: str
    tree: str
    """What is expected below the data root."""
    expected: Mapping[str, Split]
    found: Mapping[str, Split]
    differences: tuple[str, ...]
    """The first defects, each a sentence; empty where the set is as published."""
    more: int
    """How many more there are."""
    warnings: tuple[str, ...]
    """Counts that are not as published, where the literature disagrees about them."""
    notes: tuple[str, ...]
    """What a careful user wants to know and is nothing wrong, such as what was skipped."""
    broken: tuple[str, ...] = ()
    """Every image that cannot be decoded, with the reason; known only where all were decoded."""

    @property
    def ok(self) -> bool:
        return not self.differences and not self.broken

    def __str__(self) -> str:
        rows = [
            (split, field.name, *self._expected(split, field.name), shown_count(field.name, getattr(found, field.name)))
            for split, found in self.found.items()
            for field in fields(Split)
        ]
        headers = ("split", "count of", *(["expected"] if self.expected else []), "found")
        parts = [
            f"Expected below the data root:\n\n{_indented(self.tree)}",
            f"Found in {self.folder}:\n\n" + tabulate(rows, headers=headers),
            "\n".join(f"note: {note}" for note in self.notes),
            "\n".join(f"warning: {warning}" for warning in self.warnings),
            "\n".join(f"broken: {image}" for image in self.broken),
            "\n".join(f"defect: {difference}" for difference in self.differences)
            + (f"\nand {self.more:,} more" if self.more else ""),
            "" if not self.ok else "all as expected" if self.expected and not self.warnings else "no defects",
        ]
        return "\n\n".join(part for part in parts if part)

    def _expected(self, split: str, field: str) -> list[int | str]:
        """The cell of what is expected; none for the user's own images, of which nothing is published."""
        if not self.expected:
            return []
        value = getattr(self.expected.get(split), field, None)
        return ["not published" if value is None else shown_count(field, value)]


def shown_count(field: str, value: int) -> int | str:
    """A count as tables show it: a set with one camera is one that says nothing of cameras."""
    return "-" if field == "cameras" and value == 1 else value


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
