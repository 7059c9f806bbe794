"""The leaderboards as structured data."""

import json
from collections.abc import Mapping, Sequence

from benchmark.results.board import Board
from benchmark.results.plain_rows import plain_rows
from benchmark.results.ranks import mean_ranks
from benchmark.results.reported import Reported


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
