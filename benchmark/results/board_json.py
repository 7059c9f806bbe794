"""The leaderboards as structured data."""

import json
from collections.abc import Sequence

from benchmark.results.board import Board
from benchmark.results.plain_rows import plain_rows


def boards_json(boards: Sequence[Board]) -> str:
    """JSON of the rows of every board, by its name, and of the units of their figures; null for what is not known."""
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
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
