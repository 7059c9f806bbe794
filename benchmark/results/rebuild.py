"""Whether a record's costs and benchmark are those of its recipe: its networks are built again, and counted."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.errors import UserError
from benchmark.model.cost import Size, count
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.recipe import Network, Recipe, replay
from benchmark.registry import DATASETS, METHODS
from benchmark.results.consistency import Violation
from benchmark.results.record import USUAL_RULES, Cost, Record
from benchmark.utils.recipe_hash import recipe_hash

_NOWHERE = Path(os.devnull)
"""A data root without data."""


def rebuilt_violations(record: Record) -> Iterator[Violation]:
    """What in the record is not what its recipe makes.

    A student that nothing compresses has exactly the cost of the network that its recipe describes, and so has a
    teacher. A compressed student has at most that, and an embedding of the same size. Weights are random: nothing is
    downloaded or trained.
    """
    try:
        recipe = Recipe.model_validate(record.recipe)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, ("recipe", *first["loc"])))
        yield Violation(field, first["input"], f"what this release reads: {first['msg']}")
        return
    yield from _rewritten(record)
    yield from _variant(record, recipe)
    yield from _protocol(record, recipe)
    yield from _budget(record, recipe)
    yield from _image_size("network.cost", record.network.cost, recipe)
    yield from _network(record, recipe, _compresses(record, recipe.method.name))
    if record.teacher is not None:
        yield from _teacher(record, recipe, record.teacher.cost)


def _rewritten(record: Record) -> Iterator[Violation]:
    """One run under another hash: a recipe that leaves a default out, or writes a number in another way."""
    if record.recipe_hash != recipe_hash(record.recipe):
        return  # which is a violation of its own
    try:
        whole = replay(record.recipe, "the recipe").hash
    except UserError:
        return  # a method or dataset from elsewhere, or a key that is found to be wrong below
    if whole != record.recipe_hash:
        yield Violation("recipe_hash", record.recipe_hash, f"{whole}, the hash of the recipe as runs write it")


def _network(record: Record, recipe: Recipe, compressed: bool) -> Iterator[Violation]:
    cost, network = record.network.cost, recipe.student
    try:
        size, embedding = deployed(network, recipe.image_size)
    except UserError as error:
        yield Violation("recipe.student", network.backbone, f"a network that can be built: {error}")
        return
    title = network.title(compressed)
    if record.network.name != title:
        yield Violation("network.name", record.network.name, f"{title}, by the recipe")
    yield from _cost_at_most(cost, size) if compressed else _cost_equals("network.cost", cost, size)
    if record.network.embedding != embedding:
        yield Violation("network.embedding", record.network.embedding, f"{embedding} by the recipe")


def _teacher(record: Record, recipe: Recipe, cost: Cost) -> Iterator[Violation]:
    """Of a teacher that was trained by this recipe, the record's id too; another's cost is at its own image size."""
    counted_at = cost.image_size
    if recipe.teacher.checkpoint is None:
        expected = Record.make_id(recipe.for_teacher().hash, "teacher")
        if record.teacher is not None and record.teacher.record != expected:
            yield Violation("teacher.record", record.teacher.record, f"{expected}, the id of the recipe's teacher")
        yield from _image_size("teacher.cost", cost, recipe)
        counted_at = recipe.image_size
    try:
        size, _ = deployed(recipe.teacher.network, recipe.image_size, counted_at)
    except UserError as error:
        yield Violation(
            "recipe.teacher.network", recipe.teacher.network.backbone, f"a network that can be built: {error}"
        )
        return
    yield from _cost_equals("teacher.cost", cost, size)
    title = recipe.teacher.network.title()
    if record.teacher is not None and recipe.teacher.checkpoint is None and record.teacher.network != title:
        yield Violation("teacher.network", record.teacher.network, f"{title}, by the recipe")


def _image_size(field: str, cost: Cost, recipe: Recipe) -> Iterator[Violation]:
    if cost.image_size != recipe.image_size:
        yield Violation(f"{field}.image_size", cost.image_size, f"{recipe.image_size}, as in the recipe")


def _cost_equals(field: str, cost: Cost, size: Size) -> Iterator[Violation]:
    for kind in ("parameters", "macs"):
        if getattr(cost, kind) != getattr(size, kind):
            yield Violation(f"{field}.{kind}", getattr(cost, kind), f"{getattr(size, kind)} by the recipe")


def _cost_at_most(cost: Cost, size: Size) -> Iterator[Violation]:
    for kind in ("parameters", "macs"):
        if getattr(cost, kind) > getattr(size, kind):
            expected = f"at most {getattr(size, kind)}, which the recipe's student has before it is compressed"
            yield Violation(f"network.cost.{kind}", getattr(cost, kind), expected)


def _compresses(record: Record, name: str) -> bool:
    """Whether the method makes the student smaller; of one that is not registered here, whether the record says so."""
    try:
        return METHODS.find(name).compresses
    except UserError:
        return record.saved is not None and record.saved.ceiling_macs is not None


def _dataset(recipe: Recipe) -> RetrievalDataset | None:
    """The recipe's dataset, without data; None for one from elsewhere.

    Raises:
        UserError: It takes no such options.
    """
    name, options = recipe.dataset.name, recipe.dataset.arguments
    try:
        dataset = DATASETS.find(name)
    except UserError:
        return None
    try:
        return dataset(_NOWHERE, **options)
    except (OSError, TypeError, ValueError, UserError) as error:
        raise UserError(f"options that {name} takes: {error}") from error


def _variant(record: Record, recipe: Recipe) -> Iterator[Violation]:
    """Whether the record is on the board of its benchmark; the options of a dataset from elsewhere are not known."""
    found = record.variant
    expected = {f"evaluate.{rule}": value for rule, value in recipe.evaluate.non_default().items()}
    try:
        dataset = _dataset(recipe)
    except UserError as error:
        yield Violation("recipe.dataset", recipe.dataset.arguments, error)
        return
    if dataset is None:
        found = {key: value for key, value in found.items() if not key.startswith("dataset.")}
    else:
        expected |= {f"dataset.{option}": value for option, value in dataset.variant().items()}
    if found != expected:
        yield Violation("variant", found, f"{expected} by the recipe")


def _protocol(record: Record, recipe: Recipe) -> Iterator[Violation]:
    """Whether the dataset's rules, and those of the recipe, are what the record was judged by.

    Rules that the first records did not state were the usual ones. Those of a dataset from elsewhere are not known, nor
    those that the data tell.
    """
    try:
        dataset = _dataset(recipe)
    except UserError:
        return  # said of the variant
    if dataset is None or dataset.protocol_from_data:
        return
    try:
        protocol = recipe.evaluate.judged_by(dataset.protocol)
    except UserError as error:
        yield Violation("recipe.evaluate", recipe.evaluate.non_default(), f"rules that go together: {error}")
        return
    expected, found = (json.loads(json.dumps(rules)) for rules in (asdict(protocol), record.data.protocol))
    found = {**USUAL_RULES, **found}
    for rule in sorted(expected.keys() | found.keys()):
        if found.get(rule) != expected.get(rule):
            wanted = f"{expected[rule]}, by dataset and recipe" if rule in expected else "no such rule"
            yield Violation(f"data.protocol.{rule}", found.get(rule), wanted)


def _budget(record: Record, recipe: Recipe) -> Iterator[Violation]:
    """Whether the budget is the method's by its arguments; that of a method from elsewhere is not known."""
    name, arguments = recipe.method.name, recipe.method.arguments
    try:
        method = METHODS.find(name)
    except UserError:
        return
    try:
        budget = method(**arguments).budget
    except (AttributeError, TypeError, ValueError, UserError) as error:
        yield Violation("recipe.method", arguments, f"arguments that {name} takes: {error}")
        return
    expected = None if budget is None or record.role == "teacher" else (budget.kind, budget.target)
    found = None if record.budget is None else (record.budget.kind, record.budget.target)
    if found == expected:
        return
    if found is None or expected is None:
        yield Violation("budget", found or "missing", f"{expected or 'missing'} by the recipe")
        return
    for field, value, wanted in zip(("kind", "target"), found, expected, strict=True):
        if value != wanted:
            yield Violation(f"budget.{field}", value, f"{wanted} by the recipe")


def deployed(
    network: Network, image_size: tuple[int, int], counted_at: tuple[int, int] | None = None
) -> tuple[Size, int]:
    """What the network costs as it is deployed, and the size of its embedding.

    Args:
        network: Its architecture.
        image_size: (height, width) of the images that it is given; they take memory.
        counted_at: (height, width) of those that MACs are of, where others; they take none.

    Raises:
        UserError: It cannot be built, or takes no such images.
    """
    counted_at = counted_at or image_size
    architecture = network.model_dump(mode="json", exclude={"weights", "head", "scale"})
    try:
        return _deployed(json.dumps(architecture, sort_keys=True), image_size, counted_at)
    except UserError:
        raise
    except Exception as error:  # whatever a backbone raises for its arguments or its images
        raise UserError(
            f"{network.backbone} with args {network.args} takes no {counted_at[0]} x {counted_at[1]} images: {error}"
        ) from error


@cache
def _deployed(architecture: str, image_size: tuple[int, int], counted_at: tuple[int, int]) -> tuple[Size, int]:
    network = Embedder(**json.loads(architecture))
    numbers = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            # As after training: where nothing may be folded, that has to show.
            for name, values in module.state_dict(keep_vars=True).items():
                if values.is_floating_point():
                    low = 0.5 if name in ("weight", "running_var") else -0.5
                    values.data.uniform_(low, low + 1, generator=numbers)
    images = torch.randint(0, 256, (2, 3, *image_size), dtype=torch.uint8, generator=numbers)
    with torch.no_grad():
        return count(fold_batchnorm(network, images), counted_at), network.dim
