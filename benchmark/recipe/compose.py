"""Laying recipes over each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmark.errors import UserError, nearest
from benchmark.recipe.sections import Plugin, Recipe
from benchmark.recipe.validate import Keys, has, validated
from benchmark.registry import DATASETS, METHODS
from benchmark.utils import strict_yaml
from benchmark.utils.mappings import merge


def compose(
    method: str | None = None,
    dataset: str | None = None,
    config: Path | Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
) -> Recipe:
    """Build the recipe of a run from its names, an optional file and `key=value` settings.

    Raises:
        UserError: A name is unknown, a key is misspelt or a value is of the wrong type. The message names the key,
            where it was given, and the nearest valid name; of several mistakes, each.
    """
    chosen = {"method": {"name": method} if method else {}, "dataset": {"name": dataset} if dataset else {}}
    if isinstance(config, Path):
        config_name, content_of_config = str(config), strict_yaml.read(config, "config", "seed: 1")
    else:
        config_name, content_of_config = "config", dict(config or {})
    file = _with_names(content_of_config)
    command_line: dict[str, Any] = {} if seed is None else {"seed": seed}
    for setting in settings:
        command_line = merge(command_line, _with_names(parse_setting(setting)))
    user = merge(merge(file, chosen), command_line)
    names = _names(user)
    preset, user = _preset(names[0], user)
    file, chosen, command_line = (_without_preset(layer) for layer in (file, chosen, command_line))
    if "version" in file:
        if absent := _absent(file):
            raise UserError(
                f"{config_name} has the key 'version' of a recipe saved by a run, but not {', '.join(absent)}. "
                "Remove 'version' to lay the file over the built-in recipes."
            )
        content = merge({"method": preset}, user)
    else:
        content = _lay(_lay(_lay(merge(_fragments(*names, preset), {"method": preset}), file), chosen), command_line)
    content, inherited = _like_teacher(content)

    def origin(path: Keys) -> tuple[Keys, str]:
        if inherited and path[0] == "student" and not has(user, path):
            path = ("teacher", "network", *path[1:])
        return path, "--set" if has(command_line, path) else config_name if has(file, path) else "a built-in recipe"

    return validated(content, origin)


def replay(content: Mapping[str, Any], place: str) -> Recipe:
    """The recipe that a run saved as plain values, without anything of the built-in recipes.

    Args:
        content: What was saved.
        place: What that is called in messages.

    Raises:
        UserError: A part is missing, a name is not registered, or a value is not valid; of several mistakes, each.
    """
    if absent := _absent(content):
        raise UserError(f"{place} lacks {', '.join(absent)}")
    named = _with_names(dict(content))
    _names(named)
    return validated(named, lambda path: (path, place))


def _absent(content: Mapping[str, Any]) -> list[str]:
    """The parts of a whole recipe that are not there."""
    return [key for key in Recipe.model_fields if key not in content]


def _lay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge, but a student that is `like` another network takes nothing from the student below."""
    student = over.get("student")
    anew = isinstance(student, Mapping) and "like" in student
    return merge({**base, "student": {}} if anew else base, over)


def _like_teacher(content: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Replace `student: {like: teacher, ...}` by the teacher's network with the other keys laid over it."""
    student, teacher = content.get("student"), content.get("teacher")
    if not isinstance(student, Mapping) or "like" not in student:
        return content, False
    if student["like"] != "teacher":
        raise UserError(f"student.like: can only be 'teacher', not {student['like']!r}")
    network = teacher.get("network") if isinstance(teacher, Mapping) else None
    below: Mapping[str, Any] = network if isinstance(network, Mapping) else {}
    return {**content, "student": merge(below, {key: student[key] for key in student if key != "like"})}, True


def _names(user: Mapping[str, Any]) -> tuple[str, str]:
    """The names of method and dataset, which are registered."""
    problems = []
    for registry in (METHODS, DATASETS):
        section = user[registry.name]
        name = section.get("name") if isinstance(section, Mapping) else section
        if name is None:
            problems.append(
                f"which {registry.name}? Give --{registry.name} NAME, or `{registry.name}: NAME` in --config."
            )
            continue
        try:
            registry.find(name if isinstance(name, str) else repr(name))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return user["method"]["name"], user["dataset"]["name"]


def _preset(method: str, user: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that the user's `preset` of the method stands for, and the user's settings without that key.

    Raises:
        UserError: The method has no such preset.
    """
    found = METHODS.find(method)
    given = user["method"]
    arguments: dict[str, Any] = {
        name: _preset(name, {"method": given[name]})[0] for name in found.parts if isinstance(given.get(name), Mapping)
    }
    name = given.get("preset")
    if name is not None:
        if not isinstance(name, str) or name not in found.presets:
            known = ", ".join(found.presets) or "none"
            raise UserError(f"{method} has no preset {name!r}{nearest(str(name), found.presets)} Known: {known}.")
        arguments = merge(arguments, found.presets[name])
    return arguments, _without_preset(user)


def _without_preset(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The layer without the key `method.preset`, and without that of a method in a combination."""
    method = layer.get("method")
    if not isinstance(method, Mapping):
        return dict(layer)
    kept = {key: value for key, value in method.items() if key != "preset"}
    for key, value in kept.items():
        if isinstance(value, Mapping):
            kept[key] = {inner: argument for inner, argument in value.items() if inner != "preset"}
    return {**layer, "method": kept}


def _fragments(method: str, dataset: str, preset: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults, the dataset's recipe and the method's. The teacher trains as the dataset says, whatever the method.

    Arguments that suit a method to the dataset give way to a preset of it as a whole.
    """
    fragment = DATASETS.find(dataset).recipe
    defaults = Recipe(dataset=Plugin(name=dataset), method=Plugin(name=method)).model_dump(exclude={"version"})
    content = _lay(defaults, fragment)
    content["teacher"]["train"] = merge(content["train"], fragment.get("teacher", {}).get("train", {}))
    suited, found = DATASETS.find(dataset).method_arguments, METHODS.find(method)
    arguments: Mapping[str, Any]
    if found.parts:
        arguments = {name: suited[name] for name in found.parts if name in suited and name not in preset}
    else:
        arguments = {} if preset else suited.get(method, {})
    return merge(_lay(content, found.recipe), {"method": arguments})


def parse_setting(setting: str) -> dict[str, Any]:
    """`a.b=1` -> {"a": {"b": 1}}; the value is read as YAML."""
    key, separator, text = setting.partition("=")
    if not separator or not all(part for part in key.split(".")):
        raise UserError(f"--set {setting}: write it as key=value, for example --set train.schedule.epochs=2")
    try:
        value = strict_yaml.load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {setting}: {getattr(error, 'problem', None) or error}") from error
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _with_names(content: dict[str, Any]) -> dict[str, Any]:
    """`method: kd` is short for `method: {name: kd}`."""
    short = {key: {"name": content[key]} for key in ("method", "dataset") if isinstance(content.get(key), str)}
    return {**content, **short}
