"""The leaderboards as a CSV file."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from benchmark.results.board import Board
from benchmark.results.columns import LATENCY_BATCHES
from benchmark.results.comparison import Gain, mean_ranks, same_data
from benchmark.results.rows import BASELINE, TEACHER, Row
from benchmark.results.store import record_name
from benchmark.utils.escape import csv_cell

_DIGITS = 6
"""Number of decimals: enough for a million queries, and few enough to hide rounding differences of machines."""


def leaderboard_csv(boards: Sequence[Board]) -> str:
    """Return one line per row of every board.

    Column names state the units, and unknown values are empty. `mAP_gain_over_*` is the difference of the mean mAPs,
    with its 95 % confidence interval if all records hold per-query scores; it is empty for rows on different data. Rows
    of equal cost share an `equal_cost_group`, numbered from 1 for the cheapest. `mean_rank` is over all boards.
    """
    ranks = mean_ranks([board.rows for board in boards])
    lines = []
    for board in boards:
        equal_cost = _equal_cost(board)
        for row in board.rows:
            lines.append(_line(board, row) | equal_cost[row] | {"mean_rank": ranks.get(row.label)})
    text = io.StringIO()
    names = dict.fromkeys(name for line in lines for name in line)  # boards differ in the K of their Recall@K
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _line(board: Board, row: Row) -> dict[str, Any]:
    line: dict[str, Any] = {
        "board": csv_cell(board.name),
        "method": csv_cell(row.method),
        "settings": ", ".join(filter(None, ["tuned" if row.tuned else "published", row.fixed_views])),
        "embedding": csv_cell(row.embedding),
        "teacher": None if row.teacher is None else csv_cell(row.teacher),
        "network": "; ".join(map(csv_cell, row.networks)),
        "latency_device": "; ".join(map(csv_cell, row.devices)),
        "seed_count": len(row.records),
        "seeds": " ".join(str(record.seed) for record in row.records),
        "records": " ".join(f"records/{record_name(record)}" for record in row.records),
    }
    for metric in board.metrics:
        value = metric.value(row)
        line[f"{metric.name}_{metric.unit}_mean"] = None if value is None else _number(value.mean)
        line[f"{metric.name}_{metric.unit}_std"] = None if value is None else _number(value.std)
    for batch in LATENCY_BATCHES:
        line |= _latency_range(row, batch)
    for method in (BASELINE, TEACHER):
        line |= _gain(method, row, board.reference(method, row), board.gain(method, row))
    return line


def _latency_range(row: Row, batch: int) -> dict[str, Any]:
    """Return the lowest 10th and the highest 90th percentile of latencies if all records of the row have them."""
    ranges = [(record.network.cost.latency_range_ms or {}).get(str(batch)) for record in row.records]
    known = [limits for limits in ranges if limits is not None]
    if len(known) < len(ranges) or len(row.devices) > 1:
        return {}
    name, (low, high) = f"latency_batch_{batch}_ms", zip(*known, strict=True)
    return {f"{name}_p10": _number(min(low)), f"{name}_p90": _number(max(high))}


def _equal_cost(board: Board) -> dict[Row, dict[str, Any]]:
    """Return the columns on equal cost of every row."""
    name, number = "best_at_equal_cost", "equal_cost_group"
    return {row: _gain(name, row, None, None) | {number: None} for row in board.rows} | {
        row: _gain(name, row, group.rows[0], gain) | {number: position}
        for position, group in enumerate(board.groups, start=1)
        for row, gain in zip(group.rows, group.gains, strict=True)
    }


def _gain(name: str, row: Row, reference: Row | None, gain: Gain | None) -> dict[str, float | None]:
    if reference is row or (reference is not None and not same_data(row, reference)):
        reference = gain = None
    values = {
        "mean": None if reference is None else row.mAP.mean - reference.mAP.mean,
        "low": None if gain is None else gain.interval.low,
        "high": None if gain is None else gain.interval.high,
    }
    return {f"mAP_gain_over_{name}_fraction_{part}": _number(value) for part, value in values.items()}


def _number(value: float | None) -> float | None:
    """Round a value; integers lose their decimal point."""
    if value is None:
        return None
    rounded = round(value, _DIGITS)
    return int(rounded) if rounded == int(rounded) else rounded
