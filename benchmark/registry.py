"""The registries of methods, datasets and teachers.

A plugin is a Python file that registers a class when it is imported. Plugins come from three places: the folders
`methods/`, `datasets/` and `benchmark/teachers/`, the entry-point groups `benchmark.methods`, `benchmark.datasets` and
`benchmark.teachers` of installed packages, and files named with `--plugin`. A plugin that cannot be imported is
reported by name and does not affect the others.
"""

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from benchmark.errors import UserError, nearest
from benchmark.utils.names import check_name, check_page_name

if TYPE_CHECKING:
    from benchmark.data.retrieval_dataset import RetrievalDataset
    from benchmark.method import Method

Class = TypeVar("Class", bound=type)
Base = TypeVar("Base")


class PluginRegistry(Generic[Base]):
    """Classes by name, imported when a name is first looked up.

    Args:
        name: What one entry is called in messages and in recipes: "method", "dataset" or "teacher". Plugins are
            searched in the package `benchmark.<name>s` and in the entry-point group of the same name.
        base: Name in `benchmark` of the class from which all entries inherit; None for any class.
    """

    def __init__(self, name: str, base: str | None = None) -> None:
        self.name = name
        self.base = base
        self.package = f"benchmark.{name}s"
        self.classes: dict[str, type[Base]] = {}
        """Classes registered so far, by name; `names` and `find` import the plugins first."""
        self.failures: dict[str, str] = {}
        """Plugins that could not be imported: origin of the plugin -> error message."""
        self._discovered = False

    def register_module(self, name: str | None = None) -> Callable[[Class], Class]:
        """Return a class decorator that registers the class and sets its attribute `name`.

        Args:
            name: The name by which users select the class; the class's own name if None.

        Raises:
            UserError: Another class has the name, no record and no page can have it, or the class is incomplete.
        """

        def register(cls: Class) -> Class:
            key = name or cls.__name__
            try:
                check_name(key)
                if self.name == "dataset":
                    check_page_name(key)
                elif key == "teacher":
                    raise ValueError("is how tables call teachers; choose another name")
            except ValueError as error:  # before a run whose record could not be written
                raise UserError(f"{self.name} {key!r} of {_origin(cls)}: {error}") from error
            self._check(key, cls)
            known = self.classes.get(key)
            # A class of the same origin is the same class defined again, for example by rerunning a notebook's cell.
            if known is not None and _origin(known) != _origin(cls):
                raise UserError(f"{self.name} {key!r} is already registered by {_origin(known)}: choose another name")
            cls.name = key  # type: ignore[attr-defined]  # declared by the base classes of methods and datasets
            self.classes[key] = cls
            return cls

        return register

    def _check(self, name: str, cls: type[Any]) -> None:
        if self.base is None:
            return
        base = getattr(importlib.import_module("benchmark"), self.base)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise UserError(f"{self.name} {name!r}: {_origin(cls)} must be a subclass of benchmark.{self.base}")
        lacking = sorted(cls.__abstractmethods__) if inspect.isabstract(cls) else []
        lacking += [member for member in ("card",) if member in base.__annotations__ and not hasattr(cls, member)]
        if lacking:
            raise UserError(f"{self.name} {name!r}: {_origin(cls)} must define {' and '.join(lacking)}")
        for member in ("recipe", "presets", "search", "budget_arguments"):
            if not isinstance(value := getattr(cls, member, {}), Mapping):
                raise UserError(f"{self.name} {name!r}: {_origin(cls)}.{member} must be a mapping, not {value!r:.100}")
        parameters = inspect.signature(cls).parameters
        for argument in getattr(cls, "search", {}):
            default = parameters[argument].default if argument in parameters else None
            if not isinstance(default, int | float) or default <= 0:
                raise UserError(
                    f"{self.name} {name!r}: {_origin(cls)}.search names {argument!r}, which must be an argument of its "
                    "constructor with a positive number as default"
                )

    def discover(self) -> None:
        """Import every plugin once, and collect those that fail in `failures`."""
        if self._discovered:
            return
        self._discovered = True
        for module in pkgutil.iter_modules(importlib.import_module(self.package).__path__):
            name = f"{self.package}.{module.name}"
            self._load(name, partial(importlib.import_module, name))
        for point in entry_points(group=self.package):
            self._load(f"{point.name} ({point.value})", point.load)

    def _load(self, origin: str, load: Callable[[], object]) -> None:
        try:
            load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything
            self.failures[origin] = f"{type(error).__name__}: {error}"

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        self.discover()
        return sorted(self.classes)

    def find(self, name: str) -> type[Base]:
        """Return the class registered as `name`.

        Raises:
            UserError: The name is unknown. The message gives the nearest name, all names, and plugins that failed.
        """
        self.discover()
        if name in self.classes:
            return self.classes[name]
        failed = "".join(f"\n  {origin} could not be imported: {error}" for origin, error in self.failures.items())
        raise UserError(
            f"unknown {self.name} {name!r}{nearest(name, self.classes)} Known: {', '.join(self.names())}. "
            f"Names that a plugin registers need --plugin FILE.{failed}"
        )


class MethodRegistry(PluginRegistry["Method"]):
    """Methods, and their combinations: `find("kd+rkd")` returns a class, too."""

    def __init__(self) -> None:
        super().__init__("method", "Method")
        self._combinations: dict[str, type[Method]] = {}

    def find(self, name: str) -> "type[Method]":
        """Return the class registered as `name`, or the combination of methods joined by "+".

        Raises:
            UserError: A name is unknown or given twice, or the methods cannot be combined.
        """
        parts = name.split("+")
        if len(parts) == 1 or name in self.names():
            return super().find(name)
        if len(set(parts)) < len(parts):
            raise UserError(f"method {name!r}: a method is named twice; name each method once")
        if name not in self._combinations:
            from benchmark.combination import combine  # imports torch

            self._combinations[name] = combine(name, {part: super(MethodRegistry, self).find(part) for part in parts})
        return self._combinations[name]


METHODS = MethodRegistry()
"""All distillation methods."""
DATASETS: "PluginRegistry[RetrievalDataset]" = PluginRegistry("dataset", "RetrievalDataset")
"""All retrieval datasets."""
TEACHERS: PluginRegistry[Any] = PluginRegistry("teacher")
"""All teachers that are not timm backbones: see `benchmark.model.plugin`."""


def load_plugin(path: Path) -> None:
    """Import a user's Python file, which registers methods, datasets or teachers.

    Raises:
        UserError: The file is missing, cannot be imported, or registers a name that is taken.
    """
    if not path.is_file():
        reason = "is a folder: name a Python file in it" if path.is_dir() else "does not exist"
        raise UserError(f"plugin {path} {reason}")
    METHODS.discover()
    DATASETS.discover()
    TEACHERS.discover()
    # Two plugins may have the same file name in different folders.
    name = f"benchmark_plugin_{path.stem}_{sha256(os.fsencode(path.resolve())).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"plugin {path}: not a Python file (*.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything
        lines = [line for file, line, *_ in traceback.extract_tb(error.__traceback__) if file == spec.origin]
        place = f" in line {lines[-1]}" if lines else ""
        raise UserError(f"plugin {path} could not be imported{place}: {type(error).__name__}: {error}") from error


def _origin(cls: type[Any]) -> str:
    return f"{getattr(cls, '__module__', '')}.{getattr(cls, '__qualname__', cls)}".lstrip(".")
