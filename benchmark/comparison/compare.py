"""The runs of a comparison, and the tables of their results and recipes."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.box import HORIZONTALS
from rich.table import Table
from rich.text import Text

from benchmark.engine.files import METRICS_FILE, read_metrics
from benchmark.errors import UserError
from benchmark.results.comparison import Gain, query_differences
from benchmark.results.format import MISSING, difference, milliseconds, percent, quantity
from benchmark.results.record import Record
from benchmark.results.rows import Row, group_records
from benchmark.utils.recipe_hash import significant

_REQUIRED_FILES = {
    "recipe.yaml": ("not a run folder", "pass the folder that `benchmark run` prints when it ends"),
    "record.json": (
        "not a finished run with the default evaluation settings",
        "finish it with the same `benchmark run` command and --resume",
    ),
    METRICS_FILE: ("an incomplete run folder", "copy the whole folder, or delete it and run again"),
}
"""Required files of a run folder, each with what its absence means and the remedy."""


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A finished run."""

    folder: Path
    row: Row
    """The leaderboard row of this run alone."""
    metrics: list[dict[str, Any]]
    """The rows of `metrics.jsonl`, one per epoch."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the run in `<work dir>/<dataset>/<method>/seed<k>-<hash>`.

        Raises:
            UserError: The folder does not hold a finished run, or a file in it is damaged.
        """
        for name, (problem, remedy) in _REQUIRED_FILES.items():
            if not (folder / name).is_file():
                raise UserError(f"{folder}: {problem}, because it has no {name}; {remedy}")
        (row,) = group_records([Record.read(folder / "record.json")])
        return cls(folder, row, _read_metrics(folder))

    @property
    def record(self) -> Record:
        """The record of the run."""
        return self.row.records[0]

    def curve(self, key: str, scale: float = 1.0) -> NDArray[np.float64]:
        """Return (n, 2) points: the epochs that have this metric, and its values times `scale`."""
        points = [(row["epoch"], scale * row[key]) for row in self.metrics if key in row]
        return np.array(points, dtype=np.float64).reshape(-1, 2)


def _read_metrics(folder: Path) -> list[dict[str, Any]]:
    rows = read_metrics(folder)
    if not any("loss" in row for row in rows):
        raise UserError(f"{folder / METRICS_FILE}: no line has the key loss; restore the file")
    return rows


def open_runs(folders: Sequence[Path]) -> dict[str, ComparedRun]:
    """Read runs and name them: by method if that is unique, else by method and folder name, else by path.

    Args:
        folders: Folders of two or more finished runs.

    Returns:
        The runs by name, in the order of `folders`. Names are such as "kd" or "kd seed1-0123abcd".

    Raises:
        UserError: There are fewer than two folders, one is given twice, or one is not a finished run.
    """
    if len(folders) < 2:
        raise UserError(f"a comparison needs at least two runs, not {len(folders)}: add the folder of another run")
    seen: dict[Path, Path] = {}
    for folder in folders:
        earlier = seen.setdefault(Path(os.path.realpath(folder)), folder)  # unlike `resolve`, it accepts loops
        if earlier is not folder:
            raise UserError(f"{folder}: the same run as {earlier}; pass each folder once")
    runs = [ComparedRun.read(folder) for folder in folders]
    methods = [run.row.method for run in runs]
    seeds = [f"{run.row.method} {resolved.name}" for run, resolved in zip(runs, seen, strict=True)]
    paths = [str(folder) for folder in folders]
    names = next(names for names in (methods, seeds, paths) if len(set(names)) == len(runs))
    return dict(zip(names, runs, strict=True))


@dataclass(frozen=True, slots=True)
class QueryGains:
    """Differences of average precision between two runs, paired by query."""

    differences: NDArray[np.float64]
    """(Q,) differences in ascending order, of the queries that have a correct match."""
    mean: Gain
    """The mean difference, which is the difference of mAP, with its confidence interval."""

    @classmethod
    def between(cls, run: ComparedRun, reference: ComparedRun) -> Self | None:
        """Return the gains of `run` over `reference`; None if their queries cannot be paired."""
        if run.row.board != reference.row.board:
            return None
        differences = query_differences(run.row, reference.row)
        return None if differences is None else cls(np.sort(differences), Gain.from_differences(differences))

    @property
    def improved(self) -> int:
        """Number of queries with a higher average precision than in the reference run."""
        return int((self.differences > 0).sum())

    @property
    def degraded(self) -> int:
        """Number of queries with a lower average precision."""
        return int((self.differences < 0).sum())

    @property
    def unchanged(self) -> int:
        """Number of queries with equal average precision, at the five digits of a record."""
        return len(self.differences) - self.improved - self.degraded


def unpaired_reason(name: str, runs: Mapping[str, ComparedRun]) -> str:
    """Return the reason why the queries of a run cannot be paired with those of the first run."""
    first = next(iter(runs))
    run, reference = runs[name], runs[first]
    if run.row.board != reference.row.board:
        return f"{name} was evaluated on {run.row.board}, {first} on {reference.row.board}"
    for each in (name, first):
        if runs[each].record.scores.average_precision is None:
            return (
                f"the record of {each} is of an older version, without the average precision of every query. To "
                f"evaluate it again, delete {runs[each].folder / 'record.json'} and repeat its `benchmark run` command "
                "with --resume"
            )
    return f"{name} was trained or evaluated on other images than {first}"


def results_table(runs: Mapping[str, ComparedRun], gains: Mapping[str, QueryGains]) -> Table:
    """Return the table of scores and costs, with one column per run.

    Args:
        runs: The runs by name. The first is the reference.
        gains: Gains over the first run, of the runs whose queries can be paired with it.
    """
    table = Table(caption=Text(_caption(runs, gains)), caption_justify="left", box=HORIZONTALS, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in runs:
        table.add_column(Text(name), justify="right")
    columns = [_results(run.row) for run in runs.values()]
    if gains:
        header = f"mAP gain over {next(iter(runs))}"
        columns = [column | _gains(header, gains.get(name)) for name, column in zip(runs, columns, strict=True)]
    for header in columns[0]:
        table.add_row(Text(header), *(Text(column[header]) for column in columns))
    return table


def _results(row: Row) -> dict[str, str]:
    (record,) = row.records
    return {
        "dataset": row.board,
        "method": row.method,
        "seed": str(record.seed),
        "mAP": percent(row.mAP),
        "R@1": percent(row.recall(1)),
        "parameters": quantity(row.parameters),
        "MACs": quantity(row.macs),
        "saved": f"{percent(row.saved('parameters'))} / {percent(row.saved('macs'))}" if record.saved else MISSING,
        "latency": f"{milliseconds(row.latency(1))} / {milliseconds(row.latency(64))}",
        "training": f"{record.timing.train_seconds / 60:.1f}",
    }


def _gains(header: str, gains: QueryGains | None) -> dict[str, str]:
    return {
        header: MISSING if gains is None else difference(gains.mean),
        "queries improved": MISSING if gains is None else f"{gains.improved:,}",
        "queries degraded": MISSING if gains is None else f"{gains.degraded:,}",
        "queries unchanged": MISSING if gains is None else f"{gains.unchanged:,}",
    }


def _caption(runs: Mapping[str, ComparedRun], gains: Mapping[str, QueryGains]) -> str:
    devices = {name: run.row.devices[0] for name, run in runs.items()}
    latency = "latency in ms for a batch of 1 / 64"
    if len(set(devices.values())) == 1:
        latency += f" on {next(iter(devices.values()))}"
    else:
        latency += f"; not comparable: {'; '.join(f'{name} on {device}' for name, device in devices.items())}"
    lines = ["scores and savings (parameters / MACs) in %; training time in minutes", latency]
    if gains:
        lines.append(
            "mAP gains in points with the 95 % interval of a paired bootstrap over the queries; "
            "≈ if the difference is not significant"
        )
    return "\n".join(lines)


def recipe_table(runs: Mapping[str, ComparedRun]) -> Table:
    """Return the table of the recipe keys whose values differ between runs, with one column per run."""
    table = Table(title="recipes", box=HORIZONTALS, padding=(0, 1, 0, 0))
    table.add_column("key", no_wrap=True)
    for name in runs:
        table.add_column(Text(name), justify="right", overflow="fold")
    for key, values in _recipe_differences(list(runs.values())).items():
        table.add_row(Text(key), *map(Text, values))
    return table


def _recipe_differences(runs: Sequence[ComparedRun]) -> dict[str, list[str]]:
    """Return the dotted keys whose values differ, in order, each with its value in every run.

    A key that an older recipe lacks is not a difference if the other recipes have the value that its absence implies.
    """
    recipes = [_recipe(run) for run in runs]
    written = [dict(_leaves(recipe)) for recipe in recipes]
    effective = [dict(_leaves({**significant(recipe), "runtime": recipe.get("runtime", {})})) for recipe in recipes]
    students = [leaves for leaves, run in zip(effective, runs, strict=True) if run.record.role == "student"]
    keys = sorted({key for leaves in effective for key in leaves})
    return {
        key: [leaves.get(key, MISSING) for leaves in written]
        for key in keys
        if len({leaves.get(key) for leaves in (students if key.startswith("teacher.") else effective)}) > 1
    }


def _recipe(run: ComparedRun) -> dict[str, Any]:
    """Return the recipe of a run, without the section `teacher` if the run trained a teacher and so did not use it."""
    recipe = run.record.recipe
    return {key: value for key, value in recipe.items() if key != "teacher" or run.record.role == "student"}


def _leaves(content: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield the dotted keys of all values that are not mappings, and the values as in `--set KEY=VALUE`."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield ".".join((*path, key)), value if isinstance(value, str) else json.dumps(value)
