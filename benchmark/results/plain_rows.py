"""The rows of a leaderboard as plain values, which CSV and JSON share."""

from typing import Any

from benchmark.results.board import Board
from benchmark.results.gain import Gain, same_data
from benchmark.results.statistic import Statistic
from benchmark.results.store import record_name
from benchmark.results.summary import BASELINE, TEACHER, Row

_DIGITS = 6
"""After the point: enough for a million queries, and none in which the sums of two machines differ."""


def plain_rows(board: Board) -> list[dict[str, Any]]:
    """A row as a dictionary; None for what is not known.

    `mAP_gain_over` holds the difference of the mean mAPs to the rows that the page compares with; not where they saw
    other data. Its 95 % interval is known where the records hold the average precision of every query. Rows that cost
    as much share an `equal_cost_group`, counted from 1, the cheapest; the best of it has no gain over the best.
    """
    equals = {
        id(row): (number, group.rows[0], gain)
        for number, group in enumerate(board.groups, start=1)
        for row, gain in zip(group.rows, group.gains, strict=True)
    }
    return [
        {
            "method": row.method,
            "teacher": row.teacher,
            "networks": row.networks,
            "devices": row.devices,
            "seeds": [record.seed for record in row.records],
            "records": [f"records/{record_name(record)}" for record in row.records],
            "figures": {figure.name: _statistic(figure.of(row)) for figure in board.figures},
            "mAP_gain_over": {
                **{
                    method: _gain(row, board.reference(method, row), board.gains[method][index])
                    for method in (BASELINE, TEACHER)
                },
                "best_at_equal_cost": _gain(row, *equals[id(row)][1:]) if id(row) in equals else None,
            },
            "equal_cost_group": equals[id(row)][0] if id(row) in equals else None,
        }
        for index, row in enumerate(board.rows)
    ]


def _statistic(value: Statistic | None) -> dict[str, float | None] | None:
    return None if value is None else {"mean": _number(value.mean), "std": _number(value.std)}


def _gain(row: Row, reference: Row | None, gain: Gain | None) -> dict[str, float | None] | None:
    if reference is None or reference is row or not same_data(row, reference):
        return None
    interval = (gain.interval.low, gain.interval.high) if gain else (None, None)
    mean = row.mAP.mean - reference.mAP.mean
    return dict(zip(("mean", "low", "high"), map(_number, (mean, *interval)), strict=True))


def _number(value: float | None) -> float | None:
    """Rounded; whole numbers without a point."""
    if value is None:
        return None
    rounded = round(value, _DIGITS)
    return int(rounded) if rounded == int(rounded) else rounded
