"""Checking a composed recipe, and saying what is wrong with it."""

import inspect
import json
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUserError

from benchmark.errors import UserError, nearest
from benchmark.recipe.sections import Plugin, Recipe, Section
from benchmark.registry import DATASETS, METHODS, PluginRegistry

Model = TypeVar("Model", bound=BaseModel)
Keys = tuple[Any, ...]
Origin = Callable[[Keys], tuple[Keys, str]]


def validated(content: Mapping[str, Any], origin: Origin) -> Recipe:
    """The recipe in `content`, with every argument of method and dataset filled in.

    Args:
        content: What the recipe says.
        origin: Where a key of it was given: the key there, and the name of the place.

    Raises:
        UserError: A line for each thing that is wrong.
    """
    problems: list[str] = []
    plugins: dict[str, Plugin] = {}
    for registry in (METHODS, DATASETS):
        section = content[registry.name]
        given = {key: value for key, value in section.items() if key != "name"}
        model = _argument_model(registry, section["name"])
        try:
            arguments = _strictly(model, given).model_dump(mode="json")
            plugins[registry.name] = Plugin(name=section["name"], **arguments)
        except ValidationError as error:
            problems += _explain(error, (registry.name,), model, content, origin)
    try:
        recipe = _strictly(Recipe, content)
    except ValidationError as error:
        problems += _explain(error, (), Recipe, content, origin)
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return recipe.model_copy(update=plugins)


def arguments(registry: PluginRegistry, name: str, given: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """All arguments of a plug-in's constructor: those given, checked against its type hints, and the defaults.

    Raises:
        UserError: A line for each that is wrong; `origin` says where they were given.
    """
    model = _argument_model(registry, name)
    try:
        return _strictly(model, given).model_dump(mode="json")
    except ValidationError as error:
        content = {registry.name: given}
        problems = _explain(error, (registry.name,), model, content, lambda path: (path, origin))
        raise UserError("\n".join(problems)) from error


def has(content: Any, path: Keys) -> bool:
    """Whether nested mappings and lists have something at `path`."""
    for key in path:
        if isinstance(content, list) and isinstance(key, int):
            return True
        if not isinstance(content, Mapping) or key not in content:
            return False
        content = content[key]
    return True


def _strictly(model: type[Model], content: Mapping[str, Any]) -> Model:
    # As JSON, because the strict reading of Python values takes no list for a tuple and no text for a path.
    return model.model_validate_json(json.dumps(content), strict=True)


def _argument_model(registry: PluginRegistry, name: str) -> type[BaseModel]:
    """What a plug-in's constructor takes, by its type hints; of a combination, what those of its parts take."""
    parts = METHODS.find(name).parts if registry is METHODS else {}
    if parts:
        models = {part: _argument_model(registry, part) for part in parts}
        fields: dict[str, Any] = {part: (model, model()) for part, model in models.items()}
        return create_model(registry.name, __config__=ConfigDict(extra="forbid"), **fields)
    constructor = inspect.getattr_static(registry.find(name), "__init__")
    try:
        hints = typing.get_type_hints(constructor, include_extras=True)
        fields = {}
        for key, parameter in inspect.signature(constructor).parameters.items():
            if key in ("self", "root") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            fields[key] = (hints.get(key, Any), ... if parameter.default is parameter.empty else parameter.default)
        config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())
        return create_model(registry.name, __config__=config, **fields)
    except (NameError, TypeError, PydanticUserError) as error:
        raise UserError(f"{registry.name} {name}: its constructor's type hints cannot be used: {error}") from error


def _explain(
    error: ValidationError, prefix: Keys, model: type[BaseModel], content: Mapping[str, Any], origin: Origin
) -> Iterator[str]:
    """A line per mistake: the key, where it was given, what is wrong, the nearest valid key."""
    wrong: dict[Keys, list[Any]] = {}
    for problem in error.errors():
        path = (*prefix, *problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield _unknown(*origin(path), list(_fields(model, problem["loc"][:-1])), content)
        elif problem["type"] == "missing":
            yield f"{_dotted(path)} is missing; it has no default"
        else:
            while not has(content, path):  # pydantic appends which member of a union it tried
                path = path[:-1]
            wrong.setdefault(path, []).append(problem)
    for path, problems in wrong.items():
        messages = [problem["msg"].removeprefix("Input ").removeprefix("Value error, ") for problem in problems]
        what = " or ".join(messages).replace("be an object", "be a mapping")
        value = problems[0]["input"]
        shown = "" if isinstance(value, dict) else f", not {value!r}"
        key, where = origin(path)
        yield f"{_dotted(key)} in {where}: {what}{shown}"


def _unknown(path: Keys, where: str, siblings: Sequence[str], content: Mapping[str, Any]) -> str:
    key = str(path[-1])
    elsewhere = [other for other in _leaves(Recipe) if other.endswith(f".{key}")]
    for registry in (METHODS, DATASETS):
        name = content.get(registry.name, {}).get("name")
        if name and path[0] != registry.name and key in _argument_model(registry, name).model_fields:
            elsewhere.append(f"{registry.name}.{key}")
    guess = f"; did you mean {min(elsewhere, key=len)!r}?" if elsewhere else nearest(key, siblings)
    return f"unknown key {_dotted(path)!r} in {where}{guess} Known here: {', '.join(siblings) or 'none'}."


def _dotted(path: Keys) -> str:
    return ".".join(map(str, path))


def _fields(model: Any, path: Keys) -> Mapping[str, Any]:
    """The fields of the section at `path` of `model`."""
    for key in path:
        model = model.model_fields[key].annotation
    return model.model_fields


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
