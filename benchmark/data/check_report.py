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
    """Up to three defects, each a sentence; empty where the set is as published."""
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
            (split, field.name, _shown(self.expected.get(split), field.name), getattr(found, field.name))
            for split, found in self.found.items()
            for field in fields(Split)
        ]
        parts = [
            f"Expected below the data root:\n\n{_indented(self.tree)}",
            f"Found in {self.folder}:\n\n" + tabulate(rows, headers=("split", "count of", "expected", "found")),
            "\n".join(f"note: {note}" for note in self.notes),
            "\n".join(f"warning: {warning}" for warning in self.warnings),
            "\n".join(f"broken: {image}" for image in self.broken),
            "\n".join(f"defect: {difference}" for difference in self.differences),
            "" if not self.ok else "no defects" if self.warnings else "all as expected",
        ]
        return "\n\n".join(part for part in parts if part)


def _shown(split: Split | None, field: str) -> int | str:
    value = getattr(split, field, None)
    return "not published" if value is None else value


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
