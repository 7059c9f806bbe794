"""The rows of a leaderboard as plain values, which CSV and JSON share."""

from typing import Any

from benchmark.results.board import Board
from benchmark.results.gain import same_data
from benchmark.results.statistic import Statistic
from benchmark.results.store import record_name
from benchmark.results.summary import BASELINE, TEACHER

_DIGITS = 6
"""After the point: enough for a million queries, and none in which the sums of two machines differ."""


def plain_rows(board: Board) -> list[dict[str, Any]]:
    """A row as a dictionary; None for what is not known.

    `mAP_gain_over` holds the difference of the mean mAPs to the rows that the page compares with; not where they saw
    other data. Its 95 % interval is known where the records hold the average precision of every query.
    """
    return [
        {
            "method": row.method,
            "teacher": row.teacher,
            "networks": row.networks,
            "devices": row.devices,
            "seeds": [record.seed for record in row.records],
            "records": [f"records/{record_name(record)}" for record in row.records],
            "figures": {figure.name: _statistic(figure.of(row)) for figure in board.figures},
            "mAP_gain_over": {method: _gain(board, index, method) for method in (BASELINE, TEACHER)},
        }
        for index, row in enumerate(board.rows)
    ]


def _statistic(value: Statistic | None) -> dict[str, float | None] | None:
    return None if value is None else {"mean": _number(value.mean), "std": _number(value.std)}


def _gain(board: Board, index: int, method: str) -> dict[str, float | None] | None:
    row = board.rows[index]
    reference = board.reference(method, row)
    if reference is None or not same_data(row, reference):
        return None
    gain = board.gains[method][index]
    interval = (gain.interval.low, gain.interval.high) if gain else (None, None)
    mean = row.mAP.mean - reference.mAP.mean
    return dict(zip(("mean", "low", "high"), map(_number, (mean, *interval)), strict=True))


def _number(value: float | None) -> float | None:
    """Rounded; whole numbers without a point."""
    if value is None:
        return None
    rounded = round(value, _DIGITS)
    return int(rounded) if rounded == int(rounded) else rounded
