"""The hash of a recipe, which identifies a run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

_ADDED_TO_TRAINING: tuple[tuple[str, Any], ...] = (
    ("sampler.views", 1),
    ("ema", None),
    ("optimizer.lr_times", {"backbone": 1.0, "neck": 1.0, "head": 1.0, "method": 1.0, "task": 1.0}),
    ("augment.load_size", None),
    ("augment.transforms", []),
    ("task.identity", 1.0),
    ("task.margin", None),
    ("task.losses", []),
    ("schedule.decay", "cosine"),
    ("schedule.milestones", []),
    ("schedule.gamma", 0.1),
    ("schedule.frozen_epochs", 0),
)
"""Such keys of the sections `train` and `teacher.train`."""
_ADDED_KEYS: tuple[tuple[str, Any], ...] = (
    ("evaluate.average_precision", "rectangular"),
    ("evaluate.ties", "pessimistic"),
    ("evaluate.expansion", None),
    ("evaluate.reranking", None),
    ("evaluate.epoch", "last"),
    ("evaluate.images", "test"),
    ("evaluate.embedding", "float32"),
    ("student.image_size", None),
    ("teacher.network.image_size", None),
    ("student.inner_widths", None),
    ("teacher.network.inner_widths", None),
    ("dataset.background", "white"),
    ("dataset.label", ""),
    ("dataset.validation_fraction", 0.0),
    ("runtime.sync_batchnorm", False),
    ("budget", None),
    ("more_teachers", []),
    ("teacher.frozen", False),
    ("teacher.cached_views", 0),
    ("method.fixed_widths", []),
    ("settings", {"source": "published", "study": None}),
    *((f"{train}.{key}", value) for train in ("train", "teacher.train") for key, value in _ADDED_TO_TRAINING),
)
"""Keys that were added to the recipe format later, each with the value that older recipes imply."""


def recipe_hash(recipe: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a recipe's significant part, in hexadecimal digits."""
    return hashlib.sha256(json.dumps(significant(recipe), sort_keys=True).encode()).hexdigest()


def significant(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a recipe, given as plain values, that can change the result.

    Keys that were added later are left out if they have the value that older recipes imply. Older recipes thus keep
    their hash. A pair states what the result is compared with, and is not part of it.
    """
    section = recipe.get("runtime")
    runtime = section if isinstance(section, Mapping) else {}
    content = {**recipe, "runtime": {key: runtime.get(key) for key in ("amp", "compile")}}
    content.pop("pair", None)
    content["runtime"]["sync_batchnorm"] = runtime.get("sync_batchnorm", False)
    content = _without_added(content)
    if isinstance(others := content.get("more_teachers"), list):
        content["more_teachers"] = [_without_added({"teacher": each})["teacher"] for each in others]
    return content


def _without_added(content: Any) -> Any:
    """Return a recipe without the keys that were added later, where they have the values that older recipes imply."""
    for key, value in _ADDED_KEYS:
        content = _without(content, key.split("."), value)
    return content


def _without(content: Any, path: Sequence[str], value: Any) -> Any:
    """Return `content` without the entry at `path` if that entry equals `value`, and otherwise `content` itself."""
    if not isinstance(content, Mapping) or path[0] not in content:
        return content
    first, *rest = path
    if not rest:
        return {key: entry for key, entry in content.items() if key != first} if content[first] == value else content
    part = _without(content[first], rest, value)
    return content if part is content[first] else {**content, first: part}
