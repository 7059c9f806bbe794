"""The leaderboards as a table for spreadsheets and data frames."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from benchmark.results.board import Board
from benchmark.results.plain_rows import plain_rows
from benchmark.results.ranks import mean_ranks


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
