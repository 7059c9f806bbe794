"""What makes two recipes the same run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

_LATER: tuple[tuple[str, Any], ...] = (
    ("evaluate.average_precision", "rectangular"),
    ("evaluate.ties", "pessimistic"),
    ("evaluate.expansion", None),
    ("evaluate.reranking", None),
    ("train.sampler.views", 1),
    ("teacher.train.sampler.views", 1),
    ("student.image_size", None),
    ("teacher.network.image_size", None),
)
"""Keys that recipes did not always have, and the value that a key's absence means."""


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """sha256 of the significant part of a recipe, given as plain values."""
    return hashlib.sha256(json.dumps(significant(recipe), sort_keys=True).encode()).hexdigest()


def significant(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a recipe, as plain values, that can change the result.

    Keys that recipes did not always have count only where they say something new: older recipes keep their hash.
    """
    given = recipe.get("runtime")
    known = given if isinstance(given, Mapping) else {}
    parts = {**recipe, "runtime": {key: known.get(key) for key in ("amp", "compile")}}
    for key, usual in _LATER:
        parts = _without(parts, key.split("."), usual)
    return parts


def _without(content: Any, path: Sequence[str], usual: Any) -> Any:
    """`content` without the entry at `path` where that says what is usual."""
    if not isinstance(content, Mapping) or path[0] not in content:
        return content
    first, *rest = path
    if not rest:
        return {key: value for key, value in content.items() if key != first or value != usual}
    return {**content, first: _without(content[first], rest, usual)}
