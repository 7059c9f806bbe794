"""Consistency of a record with its recipe: networks, dataset and method are built again and compared with the record.

Importing this module imports torch, unlike the rest of the results package.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.data.card import Split
from benchmark.data.check import is_published
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.data.samples import SPLITS
from benchmark.errors import UserError
from benchmark.method import Budget, Method
from benchmark.model.hub import is_hub
from benchmark.model.plugin import is_plugin
from benchmark.recipe import Recipe, replay
from benchmark.recipe.validate import validate_arguments
from benchmark.registry import DATASETS, METHODS
from benchmark.results.consistency import Violation
from benchmark.results.deployed import DeployedSize, deployed
from benchmark.results.parts import DEFAULT_RULES, NONSTANDARD, Cost, TeacherReport
from benchmark.results.record import Record
from benchmark.utils.memory import memory_limit
from benchmark.utils.recipe_hash import recipe_hash

_KEPT = 300
"""Number of recipes whose parts are kept: those of a row differ only in their seeds, and are often read together."""
_MAX_MEMORY = 4 * 2**30
"""Bytes that building the networks and the method of one record may take."""
_NO_DATA = Path(os.devnull)
"""A data root without data: checking the options and the protocol of a dataset takes no images."""


def rebuilt_violations(record: Record) -> Iterator[Violation]:
    """Yield every field that contradicts what the recipe builds.

    A teacher, and a student that is not compressed, must have exactly the cost of the recipe's network. A compressed
    student must not exceed it, and must have the same embedding size. Networks get random weights: nothing is
    downloaded or trained. What depends on a method or a dataset that is not registered here is not checked.
    """
    content = record.recipe
    if content.get("seed") == record.seed and type(content["seed"]) is int:
        content = content | {"seed": 0}  # a valid seed changes nothing that is built
    with memory_limit(_MAX_MEMORY):
        found = list(_rebuilt(record, json.dumps(content)))
    yield from found


def _rebuilt(record: Record, text: str) -> Iterator[Violation]:
    read = _read(text)
    if isinstance(read, Violation):
        yield read
        return
    yield from _recipe_hash(record, read)
    yield from _benchmark(record, read)
    yield from _budget(record, read.recipe)
    yield from _image_size("network.cost", record.network.cost, read.recipe)
    yield from _student(record, read.recipe)
    given = read.recipe.per_teacher()
    if record.teachers and len(record.teachers) != len(given):
        yield Violation("more_teachers", len(record.more_teachers), f"{len(given) - 1}, as in the recipe")
        return
    for (key, teacher), recipe, record_id in zip(record.named_teachers(), given, read.teachers, strict=False):
        yield from _teacher(key, teacher, recipe, record_id)


@dataclass(frozen=True)
class _Read:
    """A recipe, and what follows from it whatever its seed.

    Attributes:
        recipe: The recipe.
        as_written: Whether it is in the form that runs write; true if that is not known here.
        teachers: Ids of the records of its teachers.
    """

    recipe: Recipe
    as_written: bool
    teachers: tuple[str, ...]

    @cached_property
    def dataset(self) -> RetrievalDataset | Violation | None:
        """The dataset without its images; None if it is not registered here."""
        name, options = self.recipe.dataset.name, self.recipe.dataset.arguments
        try:
            dataset = DATASETS.find(name)
        except UserError:
            return None
        if places := {option: options[option] for option in dataset.location_options if options.get(option)}:
            return Violation("recipe.dataset", places, "no places on a disk")
        try:
            return dataset(_NO_DATA, **validate_arguments(DATASETS, name, options, "the recipe"))
        except (OSError, TypeError, ValueError, UserError) as error:
            return Violation("recipe.dataset", options, f"valid options of {name}: {error}")

    @cached_property
    def variant(self) -> Mapping[str, Any]:
        """The non-default evaluation settings, and options of the dataset if it is known, by recipe key."""
        settings = {f"evaluate.{rule}": value for rule, value in self.recipe.evaluate.non_default().items()}
        options = self.dataset.non_default_options() if isinstance(self.dataset, RetrievalDataset) else {}
        return settings | {f"dataset.{option}": value for option, value in options.items()}

    @cached_property
    def protocol(self) -> Mapping[str, Any] | Violation:
        """The rules of the evaluation; none if they are not known without the images."""
        if not isinstance(self.dataset, RetrievalDataset) or self.dataset.protocol_from_data:
            return {}
        evaluate = self.recipe.evaluate
        try:
            return _as_json(asdict(evaluate.protocol(self.dataset.protocol)))
        except UserError as error:
            return Violation("recipe.evaluate", evaluate.non_default(), f"compatible settings: {error}")


@lru_cache(maxsize=_KEPT)
def _read(text: str) -> _Read | Violation:
    """Read the JSON of a recipe; return its first value that this release does not read, if there is one."""
    try:
        # As JSON, because pydantic's strict mode does not accept a list for a tuple in Python values.
        recipe = Recipe.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, ("recipe", *first["loc"])))
        return Violation(field, first["input"], f"a value that this release reads: {first['msg']}")
    content = json.loads(text)
    try:
        as_written = replay(content, "the recipe").hash == recipe_hash(content)
    except UserError:
        as_written = True  # a method or dataset that is not registered here, or a key that another check reports
    teachers = (Record.make_id(each.for_teacher().hash, "teacher") for each in recipe.per_teacher())
    return _Read(recipe, as_written, tuple(teachers))


def _as_json(rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return rules as they are in a record: with lists for tuples."""
    found: dict[str, Any] = json.loads(json.dumps(rules))
    return found


def _recipe_hash(record: Record, read: _Read) -> Iterator[Violation]:
    """Check that the recipe is written in the form that runs write.

    Otherwise the same run could have two hashes: one with a default written out, and one with it omitted.
    """
    if read.as_written or record.recipe_hash != recipe_hash(record.recipe):
        return  # benchmark.results.consistency reports another hash
    expected = replay(record.recipe, "the recipe").hash
    yield Violation("recipe_hash", record.recipe_hash, f"{expected}, the hash of the recipe as runs write it")


def _benchmark(record: Record, read: _Read) -> Iterator[Violation]:
    """Check the variant, which selects the leaderboard, and the protocol."""
    if isinstance(read.dataset, Violation):
        yield read.dataset
        return
    yield from _variant(record, read, read.dataset)
    yield from _protocol(record, read.protocol)


def _variant(record: Record, read: _Read, dataset: RetrievalDataset | None) -> Iterator[Violation]:
    actual, expected = record.variant, dict(read.variant)
    if dataset is None:
        actual = {key: value for key, value in actual.items() if not key.startswith("dataset.")}
    else:
        sizes = {split: Split(**dict(size)) for split, size in record.data.splits.items()}
        if set(sizes) >= set(SPLITS) and not is_published(dataset, sizes):
            expected |= NONSTANDARD
    if actual != expected:
        yield Violation("variant", actual, f"{expected}, by the recipe and the number of images")


def _protocol(record: Record, expected: Mapping[str, Any] | Violation) -> Iterator[Violation]:
    if isinstance(expected, Violation):
        yield expected
    elif expected:
        actual = {**DEFAULT_RULES, **_as_json(record.data.protocol)}
        for rule in sorted(expected.keys() | actual.keys()):
            if actual.get(rule) != expected.get(rule):
                value = f"{expected[rule]}, by dataset and recipe" if rule in expected else "no such rule"
                yield Violation(f"data.protocol.{rule}", actual.get(rule), value)


def _budget(record: Record, recipe: Recipe) -> Iterator[Violation]:
    """Check that the budget is the one that the method's arguments set."""
    name, arguments = recipe.method.name, recipe.method.arguments
    try:
        method = METHODS.find(name)
    except UserError:
        return
    try:
        budget = _method_budget(name, method, json.dumps(arguments))  # type: ignore[arg-type]  # classes are hashable
    except (AttributeError, TypeError, ValueError, UserError) as error:
        yield Violation("recipe.method", arguments, f"valid arguments of {name}: {error}")
        return
    expected = None if budget is None or record.role == "teacher" else (budget.kind, budget.target)
    actual = None if record.budget is None else (record.budget.kind, record.budget.target)
    if actual == expected:
        return
    if actual is None or expected is None:
        yield Violation("budget", actual or "missing", f"{expected or 'no budget'}, by the recipe")
        return
    for field, value, wanted in zip(("kind", "target"), actual, expected, strict=True):
        if value != wanted:
            yield Violation(f"budget.{field}", value, f"{wanted}, by the recipe")


@lru_cache(maxsize=_KEPT)
def _method_budget(name: str, method: Callable[..., Method], arguments: str) -> Budget | None:
    return method(**validate_arguments(METHODS, name, json.loads(arguments), "the recipe")).budget


def _image_size(field: str, cost: Cost, recipe: Recipe) -> Iterator[Violation]:
    if cost.image_size != recipe.image_size:
        yield Violation(f"{field}.image_size", cost.image_size, f"{recipe.image_size}, as in the recipe")


def _student(record: Record, recipe: Recipe) -> Iterator[Violation]:
    """Check the name, the cost and the embedding size of the network that the record is about."""
    cost, network = record.network.cost, recipe.student
    try:
        size = deployed(network, recipe.image_size)
    except UserError as error:
        yield Violation("recipe.student", network.backbone, f"a network that can be built: {error}")
        return
    compressed = _compresses(record, recipe.method.name)
    title = network.title(compressed)
    if record.network.name != title:
        yield Violation("network.name", record.network.name, f"{title}, by the recipe")
    yield from _cost_at_most(cost, size) if compressed else _cost_equals("network.cost", cost, size)
    if record.network.embedding != size.embedding:
        yield Violation("network.embedding", record.network.embedding, f"{size.embedding}, by the recipe")


def _compresses(record: Record, name: str) -> bool:
    """Return whether the method compresses the student; if it is not registered here, as the record states."""
    try:
        return METHODS.find(name).compresses
    except UserError:
        return record.saved is not None and record.saved.ceiling_macs is not None


def _teacher(key: str, teacher: TeacherReport, recipe: Recipe, record_id: str) -> Iterator[Violation]:
    """Check a teacher of a student.

    A teacher that the recipe trains has a known record and is measured at the recipe's image size; one that was loaded
    from a checkpoint has its own image size.

    Args:
        key: The field of the record that has the teacher.
        teacher: Its value.
        recipe: The recipe with this teacher only.
        record_id: Id of the teacher's record if the recipe trains it.
    """
    cost = teacher.cost
    measured_at = cost.image_size
    if is_plugin(backbone := recipe.teacher.network.backbone) or is_hub(backbone):  # which may not be known here
        return
    if recipe.teacher.checkpoint is None:
        if teacher.record != record_id:
            yield Violation(f"{key}.record", teacher.record, f"{record_id}, the id of the recipe's teacher")
        yield from _image_size(f"{key}.cost", cost, recipe)
        measured_at = recipe.image_size
    network = recipe.teacher.network
    try:
        size = deployed(network, recipe.image_size, measured_at)
    except UserError as error:
        yield Violation(f"recipe.{key}.network", network.backbone, f"a network that can be built: {error}")
        return
    yield from _cost_equals(f"{key}.cost", cost, size)
    title = network.title()
    if recipe.teacher.checkpoint is None and teacher.network != title:
        yield Violation(f"{key}.network", teacher.network, f"{title}, by the recipe")


def _cost_equals(field: str, cost: Cost, size: DeployedSize) -> Iterator[Violation]:
    if not size.least_parameters <= cost.parameters <= size.parameters:
        least = "" if size.least_parameters == size.parameters else f"{size.least_parameters} to "
        yield Violation(f"{field}.parameters", cost.parameters, f"{least}{size.parameters}, by the recipe")
    if cost.macs != size.macs:
        yield Violation(f"{field}.macs", cost.macs, f"{size.macs}, by the recipe")


def _cost_at_most(cost: Cost, size: DeployedSize) -> Iterator[Violation]:
    for kind in ("parameters", "macs"):
        if getattr(cost, kind) > getattr(size, kind):
            expected = f"at most {getattr(size, kind)}, the count of the recipe's student before compression"
            yield Violation(f"network.cost.{kind}", getattr(cost, kind), expected)
