"""Runs of pairs: the scores that authors published next to those measured here."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pydantic import ValidationError

from benchmark.recipe.pair import Pair, find_pair, pair_names
from benchmark.recipe.sections import Paired
from benchmark.results.columns import row_name
from benchmark.results.format import MISSING, Cell, Table, TableRow, percent
from benchmark.results.parts import NONSTANDARD, Scores
from benchmark.results.record import Record
from benchmark.results.rows import Row, Statistic
from benchmark.utils.escape import markdown, markdown_code

PAIRS_CAPTION = (
    "Runs with the settings of a published result. The column *authors* was not measured here; both columns are in "
    "percent, and differences in points. `benchmark show NAME` prints what the authors did in another way. Keys whose "
    "values are not those of the pair make a comparison unequal."
)


class Comparison(NamedTuple):
    """One score of a network, published and measured."""

    network: str
    metric: str
    authors: float
    """In percent, as published."""
    here: Statistic | None
    """As a fraction; None if a run lacks it."""
    source: str

    @property
    def difference(self) -> float | None:
        """The measured score minus the published one, in points."""
        return None if self.here is None else 100 * self.here.mean - self.authors


def find_paired(record: Record) -> Paired | None:
    """Return the pair in a record; None if it has none, or one that is not known or not of its method and dataset."""
    try:
        paired = Paired.model_validate(record.recipe.get("pair"))
    except ValidationError:
        return None
    if record.role != "student" or paired.name not in pair_names():
        return None
    pair = find_pair(paired.name)
    return paired if (record.method, record.dataset) == (pair.method.name, pair.dataset.name) else None


def comparisons(pair: Pair, records: Sequence[Record]) -> Iterator[Comparison]:
    """Yield every published score of a pair with the scores of runs that differ only in their seeds."""
    for network, published in (("teacher", pair.published.teacher), ("student", pair.published.student)):
        for metric, value in published.figures.items():
            here = Statistic.if_complete(_measured(record, network, metric) for record in records)
            yield Comparison(network, metric, value, here, str(published))


def unequal(paired: Paired, record: Record) -> list[str]:
    """Return what makes the comparison of a run with its pair unequal: dotted keys, sorted."""
    other_images = [key for key, value in NONSTANDARD.items() if record.variant.get(key) == value]
    return sorted({*paired.changed, *other_images})


def pairs_table(rows: Iterable[Row]) -> Table | None:
    """Return a table with a line per published score of each pair; None if no record has a pair."""
    lines = [
        _line(row, paired, records, comparison)
        for row in rows
        for paired, records in _by_pair(row)
        for comparison in comparisons(find_pair(paired.name), records)
    ]
    numeric = ["authors", "here", "difference"]
    headers = ["method", "pair", "network", "metric", *numeric, "not as in the pair", "source of the authors' score"]
    return Table(headers, lines, numeric) if lines else None


def _by_pair(row: Row) -> list[tuple[Paired, list[Record]]]:
    """Return the pairs of a row's records, each with its records."""
    found: dict[Paired, list[Record]] = {}
    for record in row.records:
        if (paired := find_paired(record)) is not None:
            found.setdefault(paired, []).append(record)
    return sorted(found.items(), key=lambda item: (item[0].name, item[0].changed))


def _line(row: Row, paired: Paired, records: Sequence[Record], comparison: Comparison) -> TableRow:
    points = comparison.difference
    changed = ", ".join(map(markdown_code, unequal(paired, records[0])))
    cells = [
        Cell(row_name(row)),
        Cell(markdown_code(paired.name)),
        Cell(comparison.network),
        Cell(comparison.metric),
        Cell(f"{comparison.authors:g}", sort_key=comparison.authors),
        Cell.of(comparison.here, percent),
        Cell(points_text(points), sort_key=points),
        Cell(changed or MISSING),
        Cell(markdown(comparison.source)),
    ]
    return TableRow(row.method, cells)


def points_text(points: float | None) -> str:
    """Format a difference in points: "+1.2"."""
    return MISSING if points is None else f"{points:+.1f}"


def _measured(record: Record, network: str, metric: str) -> float | None:
    """Return a score of a student's record, or of its teacher; None if it is missing or not meaningful."""
    scores: Scores | None = record.scores.symmetric
    if network == "teacher":
        scores = record.teacher.scores if record.teacher else None
    elif metric.startswith("asymmetric "):
        scores = None if record.scores.asymmetric_reason else record.scores.asymmetric
    if scores is None:
        return None
    name = metric.removeprefix("asymmetric ")
    return scores.recall.get(name.removeprefix("R@")) if name.startswith("R@") else float(getattr(scores, name))
