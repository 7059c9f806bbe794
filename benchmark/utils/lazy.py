"""Public names of a package that are imported on first use."""

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any


def import_name(package: str, modules: Mapping[str, str], name: str) -> Any:
    """Return a public name of a package, for the package's `__getattr__`, and keep it as an attribute.

    Args:
        package: Name of the package.
        modules: Public names, and the modules within the package that define them.
        name: The name that is looked up.

    Raises:
        AttributeError: The package has no such name.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value = getattr(import_module(f"{package}.{modules[name]}"), name)
    setattr(sys.modules[package], name, value)
    return value
