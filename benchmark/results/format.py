"""Numbers as text, and the tables that Markdown and web pages render."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from benchmark.results.comparison import Gain
from benchmark.results.rows import Statistic

MISSING = "-"
_PREFIXES = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))


def percent(value: Statistic | None) -> str:
    """Format a fraction as percent with one decimal: "72.3" or "72.3 ± 0.4"."""
    return MISSING if value is None else _join(value, 0.01, 1)


def difference(gain: Gain | None) -> str:
    """Format a gain in points of mAP with its interval: "+1.2 [+0.8, +1.6]"; "≈ " precedes an insignificant one."""
    if gain is None:
        return MISSING
    low, high = 100 * gain.interval.low, 100 * gain.interval.high
    return f"{'' if gain.significant else '≈ '}{100 * gain.mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def quantity(value: Statistic | None) -> str:
    """Format a count with three significant digits and a decimal prefix: "22.0 M" or "22.0 ± 0.3 M"."""
    if value is None:
        return MISSING
    rounded = float(f"{value.mean:.2e}")  # rounded first, so that 999,999 becomes "1.00 M" and not "1000 k"
    unit, prefix = next((pair for pair in _PREFIXES if rounded >= pair[0]), (1.0, ""))
    return _join(value, unit, _decimals(rounded / unit) if prefix else 0) + prefix


def milliseconds(value: Statistic | None) -> str:
    """Format a time with three significant digits: "3.10" or "3.10 ± 0.05"."""
    return MISSING if value is None else _join(value, 1.0, _decimals(value.mean))


def _decimals(value: float) -> int:
    """Return the number of decimals that shows three significant digits; at most 3."""
    exponent = int(f"{value:.2e}".partition("e")[2])
    return min(3, max(0, 2 - exponent))


def _join(value: Statistic, unit: float, decimals: int) -> str:
    mean = f"{value.mean / unit:.{decimals}f}"
    # A deviation of zero is omitted: the cost of a network with a fixed structure is the same for every seed.
    return f"{mean} ± {value.std / unit:.{decimals}f}" if value.std else mean


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: Inline Markdown: `code`, **bold** and links to records. A newline breaks the line. Text from records has
            passed `benchmark.utils.escape.markdown`.
        notes: Numbers of the notes that the cell refers to.
        sort_key: Value by which a numeric column sorts; cells without one come last.
    """

    text: str
    notes: tuple[int, ...] = ()
    sort_key: float | None = None

    @classmethod
    def of(cls, value: Statistic | Gain | None, format_: Callable[[Any], str], notes: Iterable[int] = ()) -> Self:
        """Return a cell that shows a value in a format, such as `percent`, and sorts by the value's mean."""
        return cls(format_(value), tuple(notes), None if value is None else value.mean)


class TableRow(NamedTuple):
    """The cells of one row, and the method that a web page filters rows by."""

    method: str
    cells: Sequence[Cell]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of results; `numeric` names the columns that sort by `Cell.sort_key`, the others sort by their text."""

    headers: Sequence[str]
    rows: Sequence[TableRow]
    numeric: Collection[str] = ()


class Notes:
    """The numbered notes below a table; cells with the same note share its number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def number(self, text: str) -> int:
        """Return the number of the note `text`, counted from 1; a new note is added."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1
