"""Methods at several budgets: mAP at each budget, and the area under the curve of mAP against MACs."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.results.columns import row_name
from benchmark.results.format import MISSING, Cell, Table, TableRow, percent
from benchmark.results.record import Record
from benchmark.results.rows import TEACHER, Row, Statistic
from benchmark.utils.recipe_hash import significant

_CHOSEN_BY_BUDGET = ("budget", "seed", "student", "target_macs")
"""Keys of a recipe, at any depth, that differ between the rows of a curve."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The rows of one method, with equal settings, at several budgets.

    Attributes:
        method: Name of the method, followed by what distinguishes its rows; see `Row.label`.
        rows: The rows by budget, the largest first.
    """

    method: str
    rows: dict[float, Row]

    def area(self, budgets: Sequence[float]) -> Statistic | None:
        """Return the mean mAP over the logarithm of the MACs between the smallest and the largest budget, per seed.

        It is the area under the curve of mAP against the MACs on a logarithmic axis, divided by the width of the curve.
        None if a budget is missing, or if the budgets do not have the same seeds.

        Args:
            budgets: All budgets of the board; at least two.
        """
        if set(self.rows) != set(budgets):
            return None
        seeds = [tuple(record.seed for record in row.records) for row in self.rows.values()]
        if len(set(seeds)) > 1:
            return None
        of_seeds = zip(*(row.records for row in self.rows.values()), strict=True)
        return Statistic.of([_area(records) for records in of_seeds])


def curves(rows: Iterable[Row]) -> list[Curve]:
    """Return the methods that have rows at two or more budgets, in the order of their best rows."""
    found: dict[tuple[str, str], dict[float, Row]] = {}
    for row in rows:
        budget = row.budget
        if budget is not None and row.method != TEACHER:
            text = json.dumps(_common(significant(row.records[0].recipe)), sort_keys=True)
            digest = hashlib.sha256((text + repr(row.images)).encode()).hexdigest()
            found.setdefault((row.label, digest), {}).setdefault(budget, row)
    return [
        Curve(label, dict(sorted(of_budgets.items(), reverse=True)))
        for (label, _), of_budgets in found.items()
        if len(of_budgets) > 1
    ]


def budgets_table(found: Sequence[Curve]) -> Table:
    """Return a table with a row per curve: mAP at each budget, and the area under the curve."""
    budgets = sorted({budget for curve in found for budget in curve.rows}, reverse=True)
    areas = {curve: curve.area(budgets) for curve in found}
    ordered = sorted(found, key=lambda curve: -(area.mean if (area := areas[curve]) else -1.0))
    headers = [f"mAP at {100 * budget:.3g} % of the MACs" for budget in budgets]
    table = []
    for curve in ordered:
        first = next(iter(curve.rows.values()))
        cells = [Cell.of(row.mAP, percent) if (row := curve.rows.get(budget)) else Cell(MISSING) for budget in budgets]
        table.append(TableRow(first.method, [Cell(row_name(first)), *cells, Cell.of(areas[curve], percent)]))
    numeric = [*headers, "area"]
    return Table(["method", *numeric], table, numeric)


BUDGETS_CAPTION = (
    "A budget is the MACs of the student as a fraction of the teacher's. The area is the mean mAP over the logarithm "
    "of the MACs, from the smallest budget to the largest. Values are mean ± standard deviation over the seeds."
)


def _area(records: Sequence[Record]) -> float:
    points = sorted((math.log(record.network.cost.macs), record.scores.symmetric.mAP) for record in records)
    x, y = np.array(points).T
    return float(np.trapezoid(y, x) / (x[-1] - x[0])) if x[-1] > x[0] else float(y.mean())


def _common(recipe: Any) -> Any:
    """Return the part of a recipe that the rows of a curve share."""
    if isinstance(recipe, dict):
        return {key: _common(value) for key, value in recipe.items() if key not in _CHOSEN_BY_BUDGET}
    return [_common(value) for value in recipe] if isinstance(recipe, list) else recipe
