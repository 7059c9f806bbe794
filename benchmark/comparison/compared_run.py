"""What the folder of a finished run says about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from benchmark.engine.progress_hook import METRICS, read_metrics
from benchmark.errors import UserError
from benchmark.results.record import Record
from benchmark.results.summary import Row, summarise

_FILES = {
    "recipe.yaml": ("is no run's folder", "`benchmark run` ends with the folder to name here"),
    "record.json": (
        "holds no run that is finished and judged by the usual rules",
        "The `benchmark run` that began it, with --resume, finishes it",
    ),
    METRICS: ("holds a part of a run", "Copy the whole folder, or delete it and do the run again"),
}
"""Of a run's folder: what it means that one is missing, and what to do then."""

_NUMBERS = ("epoch", "loss", "mAP", "macs")
"""Of a row of metrics: what is drawn."""


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run among others."""

    folder: Path
    row: Row
    """That its record alone makes on a leaderboard."""
    metrics: list[dict[str, Any]]
    """A row per epoch."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The run in `<work dir>/<dataset>/<method>/seed<k>-<hash>`.

        Raises:
            UserError: It is no folder of a finished run, or a file in it is damaged.
        """
        for name, (meaning, remedy) in _FILES.items():
            if not (folder / name).is_file():
                raise UserError(f"{folder} {meaning}: it has no {name}. {remedy}")
        (row,) = summarise([Record.read(folder / "record.json")])
        return cls(folder, row, _metrics(folder))

    @property
    def record(self) -> Record:
        """The record of the run."""
        return self.row.records[0]

    def curve(self, key: str, scale: float = 1.0) -> NDArray[np.float64]:
        """(n, 2) points: the epochs whose rows have this key, and its values times `scale`."""
        points = [(row["epoch"], scale * row[key]) for row in self.metrics if key in row]
        return np.array(points, dtype=np.float64).reshape(-1, 2)


def _metrics(folder: Path) -> list[dict[str, Any]]:
    try:
        rows = read_metrics(folder)
    except ValueError as error:
        raise UserError(f"{folder / METRICS} is damaged: {error}") from error
    whole = all(isinstance(row, dict) and "epoch" in row for row in rows)
    if not whole or not any("loss" in row for row in rows):
        raise UserError(f"{folder / METRICS} is damaged: a line is a JSON object with an epoch, and perhaps its loss")
    for line, row in enumerate(rows, start=1):
        for key in _NUMBERS:
            if key in row and (isinstance(row[key], bool) or not isinstance(row[key], int | float)):
                raise UserError(f"{folder / METRICS} is damaged: line {line}: {key} is {row[key]!r} and not a number")
    return rows
