"""Methods with published and with tuned arguments: what tuning gains."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from benchmark.results.columns import row_name
from benchmark.results.comparison import Gain
from benchmark.results.format import MISSING, Cell, Table, TableRow, difference, percent, quantity
from benchmark.results.rows import TEACHER, Row
from benchmark.utils.recipe_hash import significant

_CHOSEN_BY_TUNING = ("method", "settings", "seed")
"""Sections of a recipe that differ between a tuned row and its published one."""

TUNED_CAPTION = (
    "The arguments of a method are those of its publication, or were tuned on the validation images by "
    "`benchmark tune`, with the same number of trials for every method. Values are mean ± standard deviation over the "
    "seeds. Differences have a 95 % confidence interval for other queries and other seeds."
)


def published_rows(rows: Iterable[Row]) -> dict[Row, Row]:
    """Return, for each tuned row, the row of the same method, recipe and images with published arguments.

    Tuned rows without one are missing. Of several rows whose arguments were set by hand, the best one counts.
    """
    rows = [row for row in rows if row.method != TEACHER]
    published: dict[tuple[object, ...], Row] = {}
    for row in rows:
        if not row.tuned:
            published.setdefault(_common(row), row)
    return {row: other for row in rows if row.tuned and (other := published.get(_common(row)))}


def tuned_table(pairs: Mapping[Row, Row], gains: Mapping[tuple[Row, Row], Gain]) -> Table:
    """Return a table with a row per pair of `published_rows`, the largest gain of the cheapest networks first.

    Args:
        pairs: The published row of each tuned row.
        gains: The gains of tuned rows over published ones, as far as they are known.
    """
    table = []
    for tuned, published in sorted(pairs.items(), key=_order):
        gain = gains.get((tuned, published))
        cells = [
            Cell(row_name(published)),
            Cell(MISSING if tuned.budget is None else f"{100 * tuned.budget:.3g} %", sort_key=tuned.budget),
            Cell.of(published.mAP, percent),
            Cell.of(tuned.mAP, percent),
            Cell.of(gain, difference),
            Cell.of(tuned.macs, quantity),
        ]
        table.append(TableRow(tuned.method, cells))
    numeric = ["budget", "mAP published", "mAP tuned", "difference", "MACs tuned"]
    return Table(["method", *numeric], table, numeric)


def _order(pair: tuple[Row, Row]) -> tuple[float, float]:
    tuned, published = pair
    return tuned.budget or 1.0, published.mAP.mean - tuned.mAP.mean


def _common(row: Row) -> tuple[object, ...]:
    """Return what a tuned row and its published one have in common."""
    recipe: dict[str, Any] = significant(row.records[0].recipe)
    kept = {name: part for name, part in recipe.items() if name not in _CHOSEN_BY_TUNING}
    return row.method, row.teacher, row.images, json.dumps(kept, sort_keys=True)
