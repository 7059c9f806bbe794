"""Nested mappings."""

import copy
from collections.abc import Mapping
from typing import Any

DELETE = "_delete_"
"""Key of a mapping that replaces the one it overrides, as in mmengine."""


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated with `override`; if both have a mapping at a key, the mappings are merged recursively.

    The result is a deep copy.
    """
    result = dict(copy.deepcopy(base))
    for key, value in override.items():
        before = result.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            result[key] = merge(before, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def override(base: Mapping[str, Any], change: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Return `base` merged with `change`, whose mappings replace those of `base` if they have `_delete_: true`.

    Args:
        base: Nested mappings.
        change: Nested mappings; the result has none of their keys `_delete_`.
        place: The keys that lead to both mappings, each followed by a dot, for messages.

    Returns:
        A deep copy.

    Raises:
        ValueError: A value of `_delete_` is not true or false.
    """
    if not isinstance(delete := change.get(DELETE, False), bool):
        raise ValueError(f"{place}{DELETE}: must be true or false, not {delete!r}")
    result = {} if delete else dict(copy.deepcopy(base))
    for key, value in change.items():
        if isinstance(value, Mapping):
            before = result.get(key)
            result[key] = override(before if isinstance(before, Mapping) else {}, value, f"{place}{key}.")
        elif key != DELETE:
            result[key] = copy.deepcopy(value)
    return result
