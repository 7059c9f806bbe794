"""Finished runs side by side."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.box import HORIZONTALS
from rich.table import Table
from rich.text import Text

from benchmark.engine.hooks import METRICS, read_metrics
from benchmark.errors import UserError
from benchmark.results.comparison import Gain, query_differences
from benchmark.results.format import MISSING, difference, milliseconds, percent, quantity
from benchmark.results.record import Record
from benchmark.results.rows import Row, summarise
from benchmark.utils.recipe_hash import significant

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


def open_runs(folders: Sequence[Path]) -> dict[str, ComparedRun]:
    """The runs in the order given, each under a name as short as tells them apart: "kd", "kd seed1-0123abcd", the path.

    Raises:
        UserError: They are fewer than two, one is named twice, or one is no finished run.
    """
    if len(folders) < 2:
        raise UserError("a comparison is of two runs or more: name another folder")
    places: dict[Path, Path] = {}
    for folder in folders:
        earlier = places.setdefault(folder.resolve(), folder)
        if earlier is not folder:
            raise UserError(f"{folder} is the same run as {earlier}: name each folder once")
    runs = [ComparedRun.read(folder) for folder in folders]
    methods = [run.row.method for run in runs]
    seeds = [f"{run.row.method} {place.name}" for run, place in zip(runs, places, strict=True)]
    paths = [str(folder) for folder in folders]
    names = next(names for names in (methods, seeds, paths) if len(set(names)) == len(runs))
    return dict(zip(names, runs, strict=True))


@dataclass(frozen=True, slots=True)
class QueryGains:
    """What a run gains and loses on every query."""

    differences: NDArray[np.float64]
    """(Q,) differences of average precision, ascending, of the queries that count."""
    gain: Gain
    """Their mean."""

    @classmethod
    def of(cls, run: ComparedRun, first: ComparedRun) -> Self | None:
        """Of `run` over `first`; None where their queries cannot be paired."""
        if run.row.board != first.row.board:
            return None
        differences = query_differences(run.row, first.row)
        return None if differences is None else cls(np.sort(differences), Gain.mean_of(differences))

    @property
    def gained(self) -> int:
        """On how many queries the average precision is higher."""
        return int((self.differences > 0).sum())

    @property
    def lost(self) -> int:
        """On how many it is lower."""
        return int((self.differences < 0).sum())

    @property
    def equal(self) -> int:
        """On how many it is the same, to the five digits of a record."""
        return len(self.differences) - self.gained - self.lost


def why_unpaired(name: str, runs: Mapping[str, ComparedRun]) -> str:
    """Why the queries of the run of this name cannot be paired with those of the first."""
    first = next(iter(runs))
    ours, theirs = runs[name], runs[first]
    if ours.row.board != theirs.row.board:
        return f"it was judged on {ours.row.board}, {first} on {theirs.row.board}"
    for each in (name, first):
        if runs[each].record.scores.average_precision is None:
            return (
                f"the record of {each} is an old one, which lacks the average precision of every query; delete "
                f"{runs[each].folder / 'record.json'}, and the `benchmark run` that made it, with --resume, judges it "
                "again"
            )
    return f"it did not see the same images as {first}"


def figures_table(runs: Mapping[str, ComparedRun], gains: Mapping[str, QueryGains]) -> Table:
    """A column per run; `gains` are those over the first, of the runs whose queries can be paired with its own."""
    table = Table(caption=Text(_caption(runs, gains)), caption_justify="left", box=HORIZONTALS, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in runs:
        table.add_column(Text(name), justify="right")
    columns = [_figures(run.row) for run in runs.values()]
    if gains:
        first = next(iter(runs))
        columns = [
            column | _gained(gains.get(name), f"mAP against {first}")
            for name, column in zip(runs, columns, strict=True)
        ]
    for figure in columns[0]:
        table.add_row(Text(figure), *(Text(column[figure]) for column in columns))
    return table


def _figures(row: Row) -> dict[str, str]:
    (record,) = row.records
    return {
        "dataset": row.board,
        "method": row.method,
        "seed": str(record.seed),
        "mAP": percent(row.mAP),
        "R@1": percent(row.recall(1)),
        "parameters": quantity(row.over(lambda record: record.network.cost.parameters)),
        "MACs": quantity(row.macs),
        "saved": f"{percent(row.saved('parameters'))} / {percent(row.saved('macs'))}" if record.saved else MISSING,
        "latency": f"{milliseconds(row.latency(1))} / {milliseconds(row.latency(64))}",
        "training": f"{record.timing.train_seconds / 60:.1f}",
    }


def _gained(gains: QueryGains | None, against: str) -> dict[str, str]:
    if gains is None:
        return dict.fromkeys((against, "queries gained", "queries lost", "queries equal"), MISSING)
    return {
        against: difference(gains.gain),
        "queries gained": f"{gains.gained:,}",
        "queries lost": f"{gains.lost:,}",
        "queries equal": f"{gains.equal:,}",
    }


def _caption(runs: Mapping[str, ComparedRun], gains: Mapping[str, QueryGains]) -> str:
    devices = {name: run.row.devices[0] for name, run in runs.items()}
    where = set(devices.values())
    lines = [
        "scores and savings (parameters / MACs) in %; training in minutes",
        f"latency in ms for a batch of 1 / 64 on {where.pop()}"
        if len(where) == 1
        else "latency in ms for a batch of 1 / 64; not comparable: "
        + "; ".join(f"{name} on {device}" for name, device in devices.items()),
    ]
    if gains:
        lines.append(
            "differences of mAP in points, with the 95 % interval of a paired bootstrap over the queries; "
            "≈ where it holds zero"
        )
    return "\n".join(lines)


def recipe_table(runs: Mapping[str, ComparedRun]) -> Table:
    """A row for every key whose value is not the same in all recipes, a column for the values of each run."""
    table = Table(title="recipes", box=HORIZONTALS, padding=(0, 1, 0, 0))
    table.add_column("key", no_wrap=True)
    for name in runs:
        table.add_column(Text(name), justify="right", overflow="fold")
    for key, values in _differences(list(runs.values())).items():
        table.add_row(Text(key), *map(Text, values))
    return table


def _differences(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """The dotted keys whose values are not the same in all runs, sorted, each with its value in every one.

    A key that an older recipe lacks, and that says in another what its absence means, makes no difference.
    """
    recipes = [_told(run) for run in runs]
    written = [dict(_leaves(recipe)) for recipe in recipes]
    meant = [dict(_leaves({**significant(recipe), "runtime": recipe.get("runtime", {})})) for recipe in recipes]
    keys = sorted({key for leaves in meant for key in leaves})
    students = [leaves for leaves, run in zip(meant, runs, strict=True) if run.record.role == "student"]
    return {
        key: [leaves.get(key, MISSING) for leaves in written]
        for key in keys
        if len({leaves.get(key) for leaves in (students if key.startswith("teacher.") else meant)}) > 1
    }


def _told(run: ComparedRun) -> dict[str, Any]:
    """The recipe; a teacher's own without the section on its teacher, which it has not."""
    recipe = run.record.recipe
    return {key: value for key, value in recipe.items() if key != "teacher" or run.record.role == "student"}


def _leaves(content: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """The dotted keys of what is no mapping, and the values as `--set KEY=VALUE` takes them."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield ".".join((*path, key)), value if isinstance(value, str) else json.dumps(value)
