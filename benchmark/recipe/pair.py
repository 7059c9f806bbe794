"""Pairs: a teacher and a student whose results are published, with the settings that made them.

Each is a file in the folder `pairs`. It names the preset with the settings of both trainings, the dataset, the method
with its arguments, and the published scores. A file holds facts only, each with the file and commit where it was read.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, model_validator

from benchmark.errors import UserError, closest, nearest
from benchmark.recipe.preset import Facts, Preset, Source, Text, find_preset
from benchmark.recipe.sections import Paired
from benchmark.utils import strict_yaml
from benchmark.utils.mappings import merge
from benchmark.utils.recipe_hash import significant

FOLDER = Path(__file__).parent / "pairs"

_WITHOUT_EFFECT = ("seed", "teacher.seed", "evaluate.batch_size", "evaluate.every")
"""Keys with which the settings of a pair are still those of its authors."""

Metric = Annotated[str, Field(pattern=r"^(asymmetric )?(mAP|mINP|R@[1-9][0-9]{0,3})$")]
"""A score of this suite; `asymmetric`: of student queries in the teacher's gallery."""
Figure = Annotated[float, Field(ge=0, le=100)]


class Published(Facts):
    """Scores of a network as a source reports them."""

    figures: dict[Metric, Figure] = Field(min_length=1)
    """Scores in percent, by metric."""
    source: Source
    place: Text
    """Where in the source's file the scores are."""

    def __str__(self) -> str:
        return f"{self.source} ({self.place})"


class Results(Facts):
    """The published scores of both networks."""

    teacher: Published
    student: Published


class _Named(Facts):
    """A method or a dataset: its name, and its arguments as further keys."""

    model_config = ConfigDict(extra="allow")
    name: Text


class Pair(Facts):
    """The content of a file."""

    title: Text
    preset: Text
    """Name of the preset with the networks and the settings of both trainings."""
    dataset: _Named
    """The dataset of the published scores, with its options."""
    method: _Named
    sources: tuple[Source, ...] = Field(min_length=1)
    """Where the arguments of the method were read; `published` has its own sources."""
    differences: tuple[Text, ...]
    """What this suite does in another way, in addition to the differences of the preset."""
    published: Results

    @model_validator(mode="after")
    def _teacher_is_symmetric(self) -> "Pair":
        if wrong := [metric for metric in self.published.teacher.figures if metric.startswith("asymmetric")]:
            raise ValueError(f"published.teacher.figures: a teacher has no {wrong[0]}")
        return self

    @property
    def based_on(self) -> Preset:
        """The preset.

        Raises:
            UserError: It does not exist.
        """
        return find_preset(self.preset)

    @property
    def layer(self) -> dict[str, Any]:
        """The layer of a recipe with the settings of the pair."""
        base = self.based_on.layer(self.method.name, self.dataset.name)
        return merge(base, {"dataset": self.dataset.model_dump(), "method": self.method.model_dump()})


def pair_names() -> list[str]:
    """Return the names of all pairs, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def find_pair(name: str) -> Pair:
    """Return a pair by name.

    Raises:
        UserError: The name is unknown, and the message gives the nearest; or the file is not valid.
    """
    names = pair_names()
    if name not in names:
        raise UserError(f"no pair {name!r}{nearest(name, names)} Known: {', '.join(names)}.")
    path = FOLDER / f"{name}.yaml"
    content = strict_yaml.read(path, "pair", "title: TITLE")
    try:
        pair = Pair.model_validate(content)
    except ValidationError as error:
        raise UserError("\n".join(f"pair {path}: {_explain(dict(problem))}" for problem in error.errors())) from error
    try:
        pair.layer  # noqa: B018
    except UserError as error:
        raise UserError(f"pair {path}: preset: {error}") from error
    return pair


def _explain(problem: Mapping[str, Any]) -> str:
    """Return what is wrong with a file, in terms of its keys."""
    path = [str(key) for key in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "missing" and path[0] == "published":
        return f"{key}: missing; a pair has published scores of both networks, and a preset needs none"
    if problem["type"] == "missing":
        return f"{key}: missing"
    if problem["type"] == "extra_forbidden":
        guess = closest(path[-1], Pair.model_fields) if len(path) == 1 else None
        return f"{key}: unknown key{f'; did you mean {guess}?' if guess else ''}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def changed_keys(recipe: Mapping[str, Any], pairs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the dotted keys in which a recipe differs from that of its pair, sorted.

    Seeds do not count, and neither do settings that cannot change a result.

    Args:
        recipe: The recipe as plain values, as records state it.
        pairs: The recipe of the pair, in the same form.
    """
    here, there = (_flat(significant(content)) for content in (recipe, pairs))
    missing = object()
    keys = {key for key in here.keys() | there.keys() if here.get(key, missing) != there.get(key, missing)}
    return tuple(sorted(keys - set(_WITHOUT_EFFECT)))


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by dotted key."""
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            values |= _flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def remarks(paired: Paired | None) -> list[str]:
    """Return a sentence about the settings in which a run differs from its pair, if there are any."""
    if paired is None or not paired.changed:
        return []
    keys, more = paired.changed[:5], len(paired.changed) - 5
    listed = ", ".join(keys) + (f" and {more} more" if more > 0 else "")
    return [f"--pair {paired.name}: not as in the pair: {listed}; the authors' results are for the pair's settings"]
