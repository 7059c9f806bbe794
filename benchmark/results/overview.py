"""One table across all datasets."""

from collections.abc import Sequence

from benchmark.results.formatting import MISSING, percent, quantity
from benchmark.results.grid import Grid
from benchmark.results.ranks import mean_ranks
from benchmark.results.summary import BASELINE, TEACHER, Row

RANK = "mean rank"
OVERVIEW_CAPTION = "mAP / R@1 / MACs of the deployed network; scores in percent, mean ± standard deviation over seeds."


def overview(datasets: Sequence[Sequence[Row]]) -> Grid:
    """A row per method: the teacher, `none`, the others by name; a column per dataset, and the mean rank."""
    methods = sorted(
        {row.method for rows in datasets for row in rows}, key=lambda name: (name != TEACHER, name != BASELINE, name)
    )
    ranks = mean_ranks(datasets)
    cells = [
        [
            method if method == TEACHER else f"`{method}`",
            *(_cell(rows, method) for rows in datasets),
            f"{ranks[method]:.1f}" if method in ranks else MISSING,
        ]
        for method in methods
    ]
    names = [rows[0].board for rows in datasets]
    numbers = {rows[0].board: [_best(rows, method) for method in methods] for rows in datasets}
    return Grid(["method", *names, RANK], methods, cells, numbers | {RANK: [ranks.get(method) for method in methods]})


def _cell(rows: Sequence[Row], method: str) -> str:
    """A line for each of the method's rows on a dataset."""
    lines = [
        f"{percent(row.mAP)} / {percent(row.recall(1))} / {quantity(row.macs)}" for row in rows if row.method == method
    ]
    return "<br>".join(lines) or MISSING


def _best(rows: Sequence[Row], method: str) -> float | None:
    return max((row.mAP.mean for row in rows if row.method == method), default=None)
