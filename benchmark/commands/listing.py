"""`benchmark list`."""

import inspect

from rich.console import Console

from benchmark.errors import UserError, nearest
from benchmark.registry import DATASETS, METHODS, PluginRegistry

KINDS = ("methods", "datasets", "backbones")


def listing(kind: str) -> None:
    """Print every method or dataset with its first line, or the names of timm's backbones.

    Raises:
        UserError: There is no such kind.
    """
    if kind == "backbones":
        import timm

        print("\n".join(timm.list_models()))
    elif kind == "methods":
        _registered(METHODS)
    elif kind == "datasets":
        _registered(DATASETS)
    else:
        raise UserError(f"cannot list {kind!r}{nearest(kind, KINDS)} Choose methods, datasets or backbones.")


def _registered(registry: PluginRegistry) -> None:
    names = registry.names()
    width = max(map(len, names), default=0)
    for name in names:
        print(f"{name:{width}}  {(inspect.getdoc(registry.find(name)) or '').partition(chr(10))[0]}")
    warnings = Console(stderr=True, highlight=False)
    for origin, error in registry.failures.items():
        warnings.print(f"{origin} could not be imported: {error}", style="yellow", markup=False)
