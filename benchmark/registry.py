"""The registries of methods and datasets.

A plug-in registers itself by being imported. They are found in three places: the folders `methods/` and `datasets/`,
the entry-point groups `benchmark.methods` and `benchmark.datasets` of installed packages, and files given with
`--plugin`. One that fails to import is reported by name and leaves the others usable.
"""

import importlib
import importlib.util
import pkgutil
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mmengine.registry import Registry

from benchmark.errors import UserError, nearest


class PluginRegistry(Registry):
    """An mmengine registry that finds its plug-ins and answers an unknown name with the nearest known one.

    Args:
        name: What one entry is called in messages ("method", "dataset"); also the folder `benchmark.<name>s` that is
            searched and the entry-point group of the same name.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, scope="benchmark")
        self.package = f"benchmark.{name}s"
        self.failures: dict[str, str] = {}
        """Plug-ins that could not be imported: where they come from -> the error."""
        self._discovered = False

    def discover(self) -> None:
        """Import every plug-in once. Failures are kept in `failures`; they do not stop the others."""
        if self._discovered:
            return
        self._discovered = True
        for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            self._import(f"{self.package}.{module.name}", lambda name=f"{self.package}.{module.name}": _module(name))
        for point in entry_points(group=self.package):
            self._import(f"{point.name} ({point.value})", point.load)

    def _import(self, origin: str, load: Any) -> None:
        try:
            load()
        except Exception as error:
            self.failures[origin] = f"{type(error).__name__}: {error}"

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self.discover()
        return sorted(self.module_dict)

    def find(self, name: str) -> type[Any]:
        """The class registered as `name`.

        Raises:
            UserError: There is none; the message lists what there is, the nearest name and any plug-in that failed.
        """
        self.discover()
        if name in self.module_dict:
            return self.module_dict[name]
        failed = "".join(f"\n  {origin} could not be imported: {error}" for origin, error in self.failures.items())
        raise UserError(
            f"unknown {self.name} {name!r}{nearest(name, self.module_dict)} Known: {', '.join(self.names())}.{failed}"
        )


class MethodRegistry(PluginRegistry):
    """Methods, and their combinations: "kd+rkd" is a class too."""

    def find(self, name: str) -> type[Any]:
        """The class registered as `name`, or the combination of those whose names "+" joins.

        Raises:
            UserError: There is none, or the methods do not go together.
        """
        parts = name.split("+")
        if len(parts) == 1 or name in self.names():
            return super().find(name)
        if len(set(parts)) < len(parts):
            raise UserError(f"method {name!r} names one method twice")
        if name not in self._combinations:
            from benchmark.combination import combine  # which needs torch, and what a registry knows does not

            self._combinations[name] = combine(name, {part: super(MethodRegistry, self).find(part) for part in parts})
        return self._combinations[name]

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._combinations: dict[str, type[Any]] = {}


METHODS = MethodRegistry("method")
DATASETS = PluginRegistry("dataset")


def load_plugin(path: Path) -> None:
    """Import a user's own file, so that what it registers can be named.

    Raises:
        UserError: The file is missing, fails to import, or registers a name that is taken.
    """
    if not path.is_file():
        raise UserError(f"plug-in file {path} does not exist")
    METHODS.discover()
    DATASETS.discover()
    name = f"benchmark_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"plug-in file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"plug-in {path} could not be imported: {type(error).__name__}: {error}") from error


def _module(name: str) -> Any:
    return importlib.import_module(name)
