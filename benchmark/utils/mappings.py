"""Nested mappings."""

import copy
from collections.abc import Mapping
from typing import Any


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
