"""What a suite runs."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Self

from benchmark.errors import UserError, nearest
from benchmark.recipe import Recipe, compose
from benchmark.registry import DATASETS, METHODS
from benchmark.utils import strict_yaml

_KEYS = ("methods", "datasets", "seeds", "config", "set")


class Grid:
    """Every method on every dataset with every seed.

    Args:
        methods: Names; "all" stands for every registered one.
        datasets: Names; "all" likewise.
        seeds: Seeds of the students' runs.
        settings: `key=value` changes of every recipe.
        config: A file that is laid over every recipe before that.

    Raises:
        UserError: A name is given twice, a list is empty or a seed is no whole number.
    """

    def __init__(
        self,
        methods: Sequence[str],
        datasets: Sequence[str],
        seeds: Sequence[int],
        settings: Sequence[str] = (),
        config: Path | None = None,
    ) -> None:
        self.methods = _named(methods, METHODS.names())
        self.datasets = _named(datasets, DATASETS.names())
        self.seeds = list(seeds)
        self.settings = list(settings)
        self.config = config
        for name in ("methods", "datasets", "seeds"):
            given: list[Any] = getattr(self, name)
            if not given:
                raise UserError(f"which {name}? Give --{name} or the key {name!r} of the suite's file")
            if repeated := {value for value in given if given.count(value) > 1}:
                raise UserError(f"{name}: {min(repeated)} is named twice")

    @classmethod
    def read(
        cls,
        path: Path | None,
        methods: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        settings: Sequence[str] = (),
        config: Path | None = None,
    ) -> Self:
        """The grid of a YAML file with the keys methods, datasets, seeds, config and set.

        What is given besides replaces what the file says; settings are added. `config` is relative to the file.

        Raises:
            UserError: The file cannot be read or is no suite; otherwise as the class.
        """
        content = {} if path is None else _read(path)
        content |= {
            name: list(value)
            for name, value in (("methods", methods), ("datasets", datasets), ("seeds", seeds))
            if value is not None
        }
        if config is None and path is not None and "config" in content:
            config = path.parent / content["config"][0]
        return cls(
            content.get("methods", []),
            content.get("datasets", []),
            content.get("seeds", [0]),
            [*content.get("set", []), *settings],
            config,
        )

    def recipes(self) -> list[Recipe]:
        """The recipe of every run: all methods with the first seed before the next.

        Raises:
            UserError: A name or a setting is wrong.
        """
        return [
            compose(method, dataset, self.config, self.settings, seed)
            for seed, dataset, method in product(self.seeds, self.datasets, self.methods)
        ]


def _read(path: Path) -> dict[str, Any]:
    content = strict_yaml.read(path, "suite", "methods: [none, kd]")
    for key, value in content.items():
        if key not in _KEYS:
            raise UserError(f"suite {path}: unknown key {key!r}{nearest(str(key), _KEYS)} Known: {', '.join(_KEYS)}.")
        values = [value] if isinstance(value, str | int) else value
        kind = int if key == "seeds" else str
        if not isinstance(values, list) or not all(type(entry) is kind for entry in values):
            wanted = "whole numbers" if kind is int else "key=value texts" if key == "set" else "names"
            raise UserError(f"suite {path}: {key} must be a list of {wanted}, not {value!r}")
        if key == "config" and len(values) != 1:
            raise UserError(f"suite {path}: config must be one file, not {value!r}")
        content[key] = values
    return content


def _named(given: Sequence[str], registered: Sequence[str]) -> list[str]:
    return [name for entry in given for name in (registered if entry == "all" else [entry])]
