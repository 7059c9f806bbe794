"""What differs between the recipes of runs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import HORIZONTALS
from rich.table import Table
from rich.text import Text

from benchmark.comparison.compared_run import ComparedRun
from benchmark.identity import significant
from benchmark.results.formatting import MISSING


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
