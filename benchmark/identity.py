"""What makes two recipes the same run."""

from collections.abc import Mapping
from typing import Any

_LATER = (("evaluate", "average_precision", "rectangular"),)
"""Section, key, and the value that the key's absence means in recipes from before it existed."""


def significant(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a recipe, as plain values, that can change the result.

    Keys that recipes did not always have count only where they say something new: older recipes keep their hash.
    """
    runtime = {key: recipe.get("runtime", {}).get(key) for key in ("amp", "compile")}
    parts = {**recipe, "runtime": runtime}
    for section, key, usual in _LATER:
        if section in parts and parts[section].get(key) == usual:
            parts[section] = {name: value for name, value in parts[section].items() if name != key}
    return parts
