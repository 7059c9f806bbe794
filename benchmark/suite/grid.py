"""The methods, datasets, seeds and budgets of a suite."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Self

from benchmark.errors import UserError, nearest
from benchmark.recipe import Recipe, compose, find_pair, find_preset, with_budget
from benchmark.registry import DATASETS, METHODS
from benchmark.utils import strict_yaml

_KEYS = ("methods", "datasets", "seeds", "budgets", "preset", "pair", "config", "set")
"""Keys of a suite's YAML file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """All combinations of methods, datasets, seeds and budgets.

    Raises:
        UserError: A list is empty or has duplicates.
    """

    methods: Sequence[str]
    datasets: Sequence[str]
    seeds: Sequence[int] = (0,)
    """Seeds of the student's training."""
    budgets: Sequence[float | None] = (None,)
    """Budgets of the student; None for the one in the recipe."""
    preset: str | None = None
    """A preset for `--preset` of every run."""
    pair: str | None = None
    """A pair for `--pair` of every run."""
    config: Path | None = None
    """A recipe file for `--config` of every run."""
    settings: Sequence[str] = ()
    """Settings for `--set` of every run, as `key=value`."""

    def __post_init__(self) -> None:
        for name in ("methods", "datasets", "seeds", "budgets"):
            values: Sequence[Any] = getattr(self, name)
            if not values:
                raise UserError(f"the suite has no {name}: give --{name}, or the key {name!r} in the suite's file")
            if duplicates := [value for value in values if list(values).count(value) > 1]:
                raise UserError(f"{name}: {duplicates[0]} is listed twice; list it once")

    @classmethod
    def from_file(
        cls,
        path: Path | None,
        *,
        methods: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        budgets: Sequence[float] | None = None,
        preset: str | None = None,
        pair: str | None = None,
        config: Path | None = None,
        settings: Sequence[str] = (),
    ) -> Self:
        """Read a suite from a YAML file, and apply the other arguments.

        Args:
            path: A file with the keys methods, datasets, seeds, budgets, preset, pair, config and set; None if the
                other arguments define the whole suite.
            methods: Names of methods, instead of the file's; "all" stands for all registered ones.
            datasets: Names of datasets, instead of the file's; "all" stands for all registered ones.
            seeds: Seeds, instead of the file's.
            budgets: Budgets, instead of the file's.
            preset: A preset, instead of the file's. Its method and dataset are the suite's if no others are given.
            pair: A pair, instead of the file's. Its method and dataset are the suite's.
            config: A recipe, instead of the file's, whose path is relative to the file.
            settings: Settings as `key=value`, in addition to the file's.

        Raises:
            UserError: The file cannot be read or is not a valid suite, or a list is empty or has duplicates.
        """
        content: dict[str, Any] = {} if path is None else _read(path)
        if config is None and path is not None and "config" in content:
            config = path.parent / content["config"][0]
        preset = content.get("preset", [None])[0] if preset is None else preset
        if preset is not None:
            content.setdefault("methods", [find_preset(preset).method])
            content.setdefault("datasets", [find_preset(preset).dataset])
        pair = content.get("pair", [None])[0] if pair is None else pair
        if pair is not None:
            content.setdefault("methods", [find_pair(pair).method.name])
            content.setdefault("datasets", [find_pair(pair).dataset.name])
        return cls(
            methods=_expand(content.get("methods", []) if methods is None else methods, METHODS.names()),
            datasets=_expand(content.get("datasets", []) if datasets is None else datasets, DATASETS.names()),
            seeds=content.get("seeds", [0]) if seeds is None else seeds,
            budgets=content.get("budgets", [None]) if budgets is None else budgets,
            preset=preset,
            pair=pair,
            config=config,
            settings=[*content.get("set", []), *settings],
        )

    def recipes(self) -> list[Recipe]:
        """Return the recipe of every run, ordered by seed, then dataset, then method, then budget.

        Raises:
            UserError: A name or a setting is invalid.
        """
        return [
            compose(method, dataset, self.config, [*with_budget(budget), *self.settings], seed, self.preset, self.pair)
            for seed, dataset, method, budget in product(self.seeds, self.datasets, self.methods, self.budgets)
        ]


def _read(path: Path) -> dict[str, list[Any]]:
    content = strict_yaml.read(path, "suite", "methods: [none, kd]")
    for key, value in content.items():
        if key not in _KEYS:
            raise UserError(f"suite {path}: unknown key {key!r}{nearest(str(key), _KEYS)} Known: {', '.join(_KEYS)}.")
        values = [value] if isinstance(value, str | int | float) else value
        kind = {"seeds": int, "budgets": float}.get(key, str)
        if not isinstance(values, list) or not all(type(entry) is kind for entry in values):
            entries = {"seeds": "integers", "set": "key=value strings", "budgets": "fractions"}.get(key, "names")
            raise UserError(f"suite {path}: {key} must be a list of {entries}, not {value!r}")
        if key in ("config", "preset", "pair") and len(values) != 1:
            raise UserError(f"suite {path}: {key} must be one {'file' if key == 'config' else 'name'}, not {value!r}")
        content[key] = values
    return content


def _expand(names: Sequence[str], registered: Sequence[str]) -> list[str]:
    return [name for entry in names for name in (registered if entry == "all" else [entry])]
