"""What `check()` of a dataset found."""

from collections.abc import Mapping
from dataclasses import dataclass

from tabulate import tabulate

from benchmark.data.card import Split


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Expected against found; printing it gives a table and the first differences."""

    expected: Mapping[str, Split]
    found: Mapping[str, Split]
    differences: tuple[str, ...]
    """Up to three differences, each a sentence; empty where the set is as published."""

    @property
    def ok(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        rows = [
            (split, field, _shown(self.expected.get(split), field), getattr(found, field))
            for split, found in self.found.items()
            for field in ("images", "identities", "cameras")
        ]
        table = tabulate(rows, headers=("split", "count of", "expected", "found"))
        return "\n".join([table, "", *(self.differences or ("all as expected",))])


def _shown(split: Split | None, field: str) -> int | str:
    value = getattr(split, field, None)
    return "not published" if value is None else value
