"""Validation of a composed recipe, with error messages for users."""

import inspect
import json
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUserError

from benchmark.errors import UserError, closest
from benchmark.recipe.sections import Component, Recipe, Section
from benchmark.registry import DATASETS, METHODS, PluginRegistry

Model = TypeVar("Model", bound=BaseModel)
Keys = tuple[Any, ...]
"""The keys that lead to a value of nested mappings and lists."""
MAX_NUMBER = 1e12
"""Largest absolute value of a number: the squares and products of larger ones overflow in float32."""
MAX_SHOWN = 200
"""Maximum number of characters of a value in a message."""
_OTHER_TERMS = {
    "learning_rate": "lr",
    "max_epochs": "epochs",
    "num_epochs": "epochs",
    "num_workers": "workers",
    "img_size": "image_size",
    "input_size": "image_size",
}
"""Terms of other projects for keys of a recipe."""

Origin = Callable[[Keys], tuple[Keys, str]]
"""Function that returns where the value at some keys was given: the keys there, and the name of the place."""


def validate(content: Mapping[str, Any], origin: Origin) -> Recipe:
    """Return the recipe in `content`, with the default arguments of method and dataset.

    Args:
        content: All sections of a recipe, as plain values. The names of method and dataset are registered.
        origin: Where each value was given.

    Raises:
        UserError: A key is unknown or a value is invalid. The message has a line for each mistake.
    """
    problems: list[str] = []
    components: dict[str, Component] = {}
    for registry in (METHODS, DATASETS):
        section = content[registry.name]
        arguments = {key: value for key, value in section.items() if key != "name"}
        model = _argument_model(registry, section["name"])
        try:
            checked = _parse(model, arguments).model_dump(mode="json")
            problems += _extremes(checked, (registry.name,), origin)
            components[registry.name] = Component(name=section["name"], **checked)
        except ValidationError as error:
            problems += _explain(error, (registry.name,), model, content, origin)
    try:
        recipe = _parse(Recipe, content)
        problems += _extremes(recipe.model_dump(exclude=set(components)), (), origin)
    except ValidationError as error:
        problems += _explain(error, (), Recipe, content, origin)
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return recipe.model_copy(update=components)


def validate_arguments(
    registry: PluginRegistry[Any], name: str, arguments: Mapping[str, Any], origin: str
) -> dict[str, Any]:
    """Return the arguments of a registered class, checked against the type hints of its constructor, with defaults.

    Args:
        registry: The registry of the class.
        name: The registered name.
        arguments: Arguments of the constructor.
        origin: Name of the place where they were given.

    Raises:
        UserError: An argument is unknown or invalid. The message has a line for each mistake.
    """
    model = _argument_model(registry, name)
    try:
        checked = _parse(model, arguments).model_dump(mode="json")
    except ValidationError as error:
        content = {registry.name: arguments}
        mistakes = _explain(error, (registry.name,), model, content, lambda path: (path, origin))
        raise UserError("\n".join(mistakes)) from error
    if problems := list(_extremes(checked, (registry.name,), lambda path: (path, origin))):
        raise UserError("\n".join(problems))
    return checked


def contains(content: Any, path: Keys) -> bool:
    """Whether nested mappings have a value at `path`. Items of a list are assumed to exist."""
    for key in path:
        if isinstance(content, list) and isinstance(key, int):
            return True
        if not isinstance(content, Mapping) or key not in content:
            return False
        content = content[key]
    return True


def is_section(path: Keys) -> bool:
    """Whether `path` is a section of a recipe, such as `train.schedule`, and not a single value."""
    model: Any = Recipe
    for key in path:
        field = getattr(model, "model_fields", {}).get(key)
        if field is None:
            return False
        model = field.annotation
    return isinstance(model, type) and issubclass(model, BaseModel)


def _parse(model: type[Model], content: Mapping[str, Any]) -> Model:
    # As JSON: pydantic's strict mode does not accept a list for a tuple, or a string for a path, in Python values.
    return model.model_validate_json(json.dumps(content), strict=True)


def _argument_model(registry: PluginRegistry[Any], name: str) -> type[BaseModel]:
    """Return a model of the arguments of a constructor; for a combination, with one section per method."""
    return _build_argument_model(registry, name, registry.find(name))  # type: ignore[arg-type]  # classes are hashable


@lru_cache(maxsize=1024)
def _build_argument_model(registry: PluginRegistry[Any], name: str, _: type[Any]) -> type[BaseModel]:
    parts = METHODS.find(name).parts if registry is METHODS else {}
    if parts:
        models = {part: _argument_model(registry, part) for part in parts}
        sections: dict[str, Any] = {part: (model, model()) for part, model in models.items()}
        return create_model(registry.name, __config__=ConfigDict(extra="forbid"), **sections)
    constructor = inspect.getattr_static(registry.find(name), "__init__")
    try:
        hints = typing.get_type_hints(constructor, include_extras=True)
        arguments: dict[str, Any] = {}
        for key, parameter in inspect.signature(constructor).parameters.items():
            if key in ("self", "root") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            arguments[key] = (hints.get(key, Any), ... if parameter.default is parameter.empty else parameter.default)
        config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())
        return create_model(registry.name, __config__=config, **arguments)
    except (NameError, TypeError, PydanticUserError) as error:
        raise UserError(
            f"{registry.name} {name}: the type hints of its constructor cannot be evaluated: {error}"
        ) from error


def _explain(
    error: ValidationError, prefix: Keys, model: type[BaseModel], content: Mapping[str, Any], origin: Origin
) -> Iterator[str]:
    """Yield a line per mistake: the key, where it was given, what is wrong, and the nearest valid key."""
    invalid: dict[Keys, list[Any]] = {}
    for problem in error.errors():
        path = (*prefix, *problem["loc"])
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            yield _unknown_key(*origin(path), _fields(model, problem["loc"][:-1]), content)
        elif problem["type"] == "missing":
            yield f"{_dotted(path)}: missing; it has no default"
        else:
            while not contains(content, path):  # for a union, pydantic appends the tried member to the path
                path = path[:-1]
            invalid.setdefault(path, []).append(problem)
    for path, problems in invalid.items():
        value = problems[0]["input"]
        shown = "" if isinstance(value, dict) else f", not {_shortened(value)}"
        if any(problem["type"] == "string_type" for problem in problems):
            shown += _quoting(value)
        key, place = origin(path)
        yield f"{_dotted(key)} in {place}: {' or '.join(map(_expectation, problems))}{shown}"


def _extremes(values: Any, path: Keys, origin: Origin) -> Iterator[str]:
    """Yield a line for each floating-point number that is too large, or not finite."""
    if isinstance(values, float) and not abs(values) <= MAX_NUMBER:
        keys, place = origin(path)
        yield f"{_dotted(keys)} in {place}: should be a number from {-MAX_NUMBER:g} to {MAX_NUMBER:g}, not {values:g}"
    elif isinstance(values, dict | list | tuple):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _extremes(value, (*path, key), origin)


def _expectation(problem: Mapping[str, Any]) -> str:
    """Return what a value should be: pydantic's message in the terms of YAML."""
    if problem["type"] in ("too_long", "too_short"):
        limits = problem["ctx"]
        few = problem["type"] == "too_short"
        number = limits["min_length" if few else "max_length"]
        return f"should have at {'least' if few else 'most'} {number} entr{'y' if number == 1 else 'ies'}"
    if problem["type"] == "bool_type":
        return "should be true or false"
    if problem["type"] == "string_pattern_mismatch":
        return f"should be text that matches {problem['ctx']['pattern']}"
    if problem["type"] == "string_too_short":
        return "should not be empty"
    message: str = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
    for term, plain in (("an object", "a mapping"), ("valid dictionary", "mapping"), ("valid array", "list")):
        message = message.replace(f"be {term}", f"be {plain}").replace(f"be a {term}", f"be a {plain}")
    return message


def _quoting(value: Any) -> str:
    """Return how to write text that YAML reads as something else, as the end of a message."""
    if value is None:
        return " (an empty value; text that begins with # needs quotes in addition to the shell's)"
    if isinstance(value, bool | int | float):
        return f"""; quote it for YAML, in addition to the shell's quotes: '"{json.dumps(value)}"'"""
    return ""


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _unknown_key(path: Keys, place: str, siblings: Sequence[str], content: Mapping[str, Any]) -> str:
    """Return a message that suggests another key.

    It is a sibling that differs by a letter, or else a key of the same name in another section, or else the nearest
    sibling.
    """
    key = str(path[-1])
    known = f" Known here: {', '.join(siblings) or 'none'}."
    if key == "batch_size" and path[0] != "evaluate":
        train = "teacher.train" if path[0] == "teacher" else "train"
        batch = f"a batch has {train}.sampler.identities x {train}.sampler.images images"
        return f"{_dotted(path)} in {place}: unknown key; {batch}.{known}"
    names = {key, _OTHER_TERMS.get(key, key)}
    same_name = [other for other in _keys(Recipe) if other.rpartition(".")[2] in names]
    for registry in (METHODS, DATASETS):
        name = content.get(registry.name, {}).get("name")
        if name and path[0] != registry.name and key in _argument_model(registry, name).model_fields:
            same_name.append(f"{registry.name}.{key}")
    guess = closest(key, siblings)
    if same_name and not closest(key, siblings, similarity=0.9):
        guess = min(same_name, key=lambda other: (not other.startswith(f"{path[0]}."), len(other)))
    elif guess:
        guess = _dotted((*path[:-1], guess))
    question = f"; did you mean {guess}?" if guess else "."
    return f"{_dotted(path)} in {place}: unknown key{question}{known}"


def _dotted(path: Keys) -> str:
    return ".".join(map(str, path))


def _fields(model: Any, path: Keys) -> list[str]:
    """Return the names of the fields of the section at `path` of `model`."""
    for key in path:
        if isinstance(key, int) and typing.get_origin(model) is tuple:
            model = typing.get_args(model)[0]
        elif hasattr(model, "model_fields"):
            model = model.model_fields[key].annotation
        else:
            break  # a member of a union
    for member in (model, *typing.get_args(model)):
        if hasattr(member, "model_fields"):
            return list(member.model_fields)
        if is_dataclass(member):
            return [field.name for field in fields(member)]
    return []


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all sections and values."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _keys(field.annotation, f"{prefix}{name}.")
