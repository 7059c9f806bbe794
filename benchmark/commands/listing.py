"""`benchmark list`."""

import inspect
from collections.abc import Sequence

from rich.console import Console

from benchmark.errors import UserError, nearest
from benchmark.method import KINDS
from benchmark.registry import DATASETS, METHODS, PluginRegistry

LISTS = ("methods", "datasets", "backbones")


def listing(kind: str) -> None:
    """Print every method or dataset with its first line, or the names of timm's backbones.

    Raises:
        UserError: There is no such kind.
    """
    if kind == "backbones":
        import timm

        print("\n".join(timm.list_models()))
    elif kind == "methods":
        _methods()
    elif kind == "datasets":
        _registered(DATASETS)
    else:
        raise UserError(f"cannot list {kind!r}{nearest(kind, LISTS)} Choose methods, datasets or backbones.")


def _methods() -> None:
    """Every method under its kind."""
    kinds = {name: METHODS.find(name).kind for name in METHODS.names()}
    for kind, about in KINDS.items():
        members = [name for name, its in kinds.items() if its == kind]
        if members:
            print(f"{kind}: {about}")
            _lines(METHODS, members, max(map(len, kinds)), indent="  ")
    print("Combinations: --method kd+rkd adds the terms of both.")
    _failures(METHODS)


def _registered(registry: PluginRegistry) -> None:
    names = registry.names()
    _lines(registry, names, max(map(len, names), default=0))
    _failures(registry)


def _lines(registry: PluginRegistry, names: Sequence[str], width: int, indent: str = "") -> None:
    for name in names:
        print(f"{indent}{name:{width}}  {(inspect.getdoc(registry.find(name)) or '').partition(chr(10))[0]}")


def _failures(registry: PluginRegistry) -> None:
    warnings = Console(stderr=True, highlight=False)
    for origin, error in registry.failures.items():
        warnings.print(f"{origin} could not be imported: {error}", style="yellow", markup=False)
