"""The leaderboards as CSV and JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.results.board import Board
from benchmark.results.comparison import Gain, mean_ranks, same_data
from benchmark.results.reported import Reported
from benchmark.results.rows import BASELINE, TEACHER, Row, Statistic
from benchmark.results.store import record_name

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


def boards_csv(boards: Sequence[Board]) -> str:
    """A line per row of every board; the headers name the units, and what is not known is empty.

    A method's mean rank over all boards is in each of its lines.
    """
    ranks = mean_ranks([board.rows for board in boards])
    lines = [
        _line(board, row) | {"mean_rank": ranks.get(row["method"])} for board in boards for row in plain_rows(board)
    ]
    text = io.StringIO()
    names = dict.fromkeys(name for line in lines for name in line)  # boards differ in the K of their Recall@K
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _line(board: Board, row: dict[str, Any]) -> dict[str, Any]:
    line = {
        "board": board.name,
        "method": row["method"],
        "teacher": row["teacher"],
        "network": "; ".join(row["networks"]),
        "latency_device": "; ".join(row["devices"]),
        "seed_count": len(row["seeds"]),
        "seeds": " ".join(map(str, row["seeds"])),
        "records": " ".join(row["records"]),
    }
    for figure in board.figures:
        value = row["figures"][figure.name] or {}
        line |= {f"{figure.name}_{figure.unit}_{part}": value.get(part) for part in ("mean", "std")}
    for method, gain in row["mAP_gain_over"].items():
        value = gain or {}
        line |= {f"mAP_gain_over_{method}_fraction_{part}": value.get(part) for part in ("mean", "low", "high")}
    line["equal_cost_group"] = row["equal_cost_group"]
    return line


def boards_json(boards: Sequence[Board], reported: Mapping[str, Reported]) -> str:
    """JSON of the rows of every board, by its name, and of the units of their figures; null for what is not known.

    Beside them the mean ranks over all boards, and, apart, what others published, in percent or points.
    """
    content = {
        "units": {figure.name: figure.unit for board in boards for figure in board.figures}
        | {"mAP_gain_over": "fraction"},
        "boards": {
            board.name: {
                "training_step": board.costs and board.costs.model_dump(exclude={"dataset", "ratios"}),
                "rows": plain_rows(board),
            }
            for board in boards
        },
        "mean_rank": mean_ranks([board.rows for board in boards]),
        "reported_elsewhere": {
            name: [result.model_dump(mode="json") for result in of_board.results] for name, of_board in reported.items()
        },
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
