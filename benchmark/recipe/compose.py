"""Composition of a recipe from built-in recipes and the user's changes.

Mappings are merged key by key. There are two exceptions for `args`, the arguments of a network's backbone: a layer that
names another backbone starts without the `args` below it, and `args: {}` removes them. Options of networks that such a
backbone does not support are adapted to it; see `fitting`. A mapping with `_delete_: true` replaces the one below it.
"""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.errors import UserError, nearest
from benchmark.recipe.fitting import fit_networks
from benchmark.recipe.pair import changed_keys, find_pair, pair_names
from benchmark.recipe.preset import find_preset
from benchmark.recipe.sections import Component, Paired, Recipe, Settings
from benchmark.recipe.settings import PUBLISHED, TunedSettings
from benchmark.recipe.validate import Keys, contains, is_section, validate
from benchmark.registry import DATASETS, METHODS
from benchmark.utils import strict_yaml
from benchmark.utils.mappings import DELETE, merge, override
from benchmark.utils.paths import user_path

if TYPE_CHECKING:
    from benchmark.method import Method

_BY_FILE = ("source", "study")
"""Keys of the section `settings`, which follow from the file of tuned arguments."""
TRAIN = "train"
"""In place of the name of a teacher: train one."""
_EMPTY_ARGS: tuple[dict[str, Any], ...] = ({"student": {"args": {}}}, {"teacher": {"network": {"args": {}}}})
"""Settings that remove the arguments of a network's backbone."""


def compose(
    method: str | None = None,
    dataset: str | None = None,
    config: Path | Mapping[str, Any] | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
    preset: str | None = None,
    pair: str | None = None,
) -> Recipe:
    """Compose the recipe of a run.

    Args:
        method: Name of the method; may be given in `config` or `settings` or by the preset instead.
        dataset: Name of the dataset; may be given in `config` or `settings` or by the preset instead.
        config: A YAML file or a mapping, merged over the built-in recipes. A file saved by a run, which has the key
            `version`, replaces them.
        settings: Changes of single values, each `key=value`.
        seed: The run's seed.
        preset: Name of a preset, which is merged over the built-in recipes, below `config`.
        pair: Name of a pair, which takes the place of a preset. The recipe states its name and what was changed.

    Raises:
        UserError: A name is unknown, a key is misspelled or a value is invalid. The message has a line for each
            mistake: the key, where it was given, and the nearest valid name.
    """
    if preset is not None and pair is not None:
        raise UserError(f"--preset {preset}: --pair {pair} builds on {find_pair(pair).preset}; give one of them")
    layers = _read_layers(method, dataset, config, settings, seed, preset, pair)
    chosen = _Chosen()
    user: dict[str, Any] = {}
    for layer in layers.in_order():
        user = _merge_layer(user, layer)
    method_name, dataset_name = _names(user)
    if pair is not None:
        _require_published(pair, method_name, dataset_name)
    arguments = _preset_arguments(method_name, user["method"])
    user, layers = _without_preset(user), layers.without_presets()
    if "version" in layers.config:
        if layers.base_name:
            raise UserError(
                f"--{layers.base_name}: {layers.config_name} has the key 'version', as a recipe saved by a run has, "
                "and replaces all others; give one of them"
            )
        if missing := _missing_sections(layers.config):
            raise UserError(
                f"{layers.config_name} has the key 'version', as a recipe saved by a run has, but lacks "
                f"{', '.join(missing)}. Remove 'version' to merge the file over the built-in recipes."
            )
        if "settings" in layers.settings:
            raise UserError(
                f"settings: {layers.config_name} is a saved recipe, which has all arguments; set single ones"
            )
        content = merge({"method": arguments}, user)
        base, given = layers.config["teacher"], layers.settings  # the file's own teachers are complete
    else:
        budget = user.get("budget", DATASETS.find(dataset_name).recipe.get("budget"))
        budget = budget if type(budget) in (int, float) else None  # the validation reports other types
        chosen = _Chosen.of(method_name, user, arguments)
        if chosen.arguments and layers.preset.get("method", {}).keys() - {"name"}:
            raise UserError(f"settings: {chosen.path} and --{layers.base_name} both choose arguments; give one of them")
        content = merge(
            _built_in(method_name, dataset_name, arguments, budget), {"method": merge(chosen.arguments, arguments)}
        )
        base, given = content["teacher"], user
        for layer in layers.in_order():
            content = _merge_layer(content, layer)
        # What the file decides; a misspelled key remains, to be reported.
        content["settings"] = {key: value for key, value in content["settings"].items() if key not in _BY_FILE}
    if _replaces_checkpoint(user.get("teacher", {})):
        content["teacher"]["checkpoint"] = None
    if isinstance(others := given.get("more_teachers"), list):  # the validation reports anything else
        content["more_teachers"] = [_merge_teacher(base, each) for each in others]
    content, inherited = _resolve_like_teacher(content)

    def origin(path: Keys) -> tuple[Keys, str]:
        if inherited and path[0] == "student" and not contains(user, path):
            path = ("teacher", "network", *path[1:])
        if contains(layers.settings, path):
            return path, "--set"
        if contains(layers.config, path):
            return path, layers.config_name
        return path, layers.base_name if contains(layers.preset, path) else "a built-in recipe"

    changes = (layers.settings,) if "version" in layers.config else (layers.config, layers.settings)
    recipe = fit_networks(chosen.apply(validate(content, origin)), changes, inherited)
    return _with_pair(recipe, pair or (recipe.pair.name if recipe.pair else None))


def _require_published(pair: str, method: str, dataset: str) -> None:
    """Check that the published result of a pair is that of a method and a dataset.

    Raises:
        UserError: It is not.
    """
    wanted = find_pair(pair)
    for option, name, own in (("method", method, wanted.method.name), ("dataset", dataset, wanted.dataset.name)):
        if name != own:
            raise UserError(
                f"--pair {pair}: the published result is of the {option} {own}, and there is none of {name}: choose "
                f"another pair, see `benchmark list pairs`, or use --preset {wanted.preset}"
            )


def _with_pair(recipe: Recipe, name: str | None) -> Recipe:
    """Return the recipe with what differs from its pair.

    A saved recipe may have a pair that is no longer known, or that is not of the method and dataset chosen since.
    """
    if name is None or name not in pair_names():
        return recipe
    pair = find_pair(name)
    if (recipe.method.name, recipe.dataset.name) != (pair.method.name, pair.dataset.name):
        return recipe.model_copy(update={"pair": None})
    own = compose(config=pair.layer).recorded()
    return recipe.model_copy(update={"pair": Paired(name=name, changed=changed_keys(recipe.recorded(), own))})


def replay(content: Mapping[str, Any], place: str) -> Recipe:
    """Return the recipe that a run has saved as plain values, without using the built-in recipes.

    Args:
        content: The saved values.
        place: Where the values come from, for error messages.

    Raises:
        UserError: A section is missing, a name is not registered, or a value is invalid. The message has a line for
            each mistake.
    """
    if missing := _missing_sections(content):
        raise UserError(f"{place} lacks {', '.join(missing)}")
    expanded = _expand_names(dict(content))
    _names(expanded)
    return fit_networks(validate(expanded, lambda path: (path, place)))


def use_teacher(teacher: str | Sequence[str] | None) -> list[str]:
    """Return the settings for the option `--teacher`.

    Args:
        teacher: A checkpoint, "train" to train a teacher, or several of both; None for no change.
    """
    names = [teacher] if isinstance(teacher, str) else list(teacher or ())
    if len(names) > 1:
        return [f"teacher={json.dumps(names, ensure_ascii=False)}"]
    return [f"teacher.checkpoint={json.dumps(_checkpoint(name), ensure_ascii=False)}" for name in names]


def _checkpoint(name: str) -> str | None:
    return None if name == TRAIN else name


def with_budget(budget: float | None) -> list[str]:
    """Return the settings for the option `--budget`; None for no change."""
    return [] if budget is None else [f"budget={budget!r}"]


def with_settings(source: str | None) -> list[str]:
    """Return the settings for the option `--settings`: published or a file; None for no change."""
    return [] if source is None else [f"settings={json.dumps(source, ensure_ascii=False)}"]


def student_only(config: Path | Mapping[str, Any] | None, settings: Sequence[str]) -> list[str]:
    """Return a sentence about settings of `train`, if there are any, that were not given for the teacher, too.

    The teacher trains by the section `teacher.train`, so that all students of a dataset have the same teacher.

    Args:
        config: The recipe of the user, as for `compose`.
        settings: Changes of single values, as for `compose`.
    """
    layers = _read_layers(None, None, config, settings, None)
    # A recipe saved by a run has all settings of both.
    user = layers.settings if "version" in layers.config else merge(layers.config, layers.settings)
    teacher = user.get("teacher", {})
    train = dict(_leaves(user.get("train"), ("train",)))
    given = dict(_leaves(teacher.get("train"), ("train",)))
    keys = [".".join(path) for path in train if path not in given]
    if not keys or teacher.get("checkpoint") is not None:
        return []
    first = f"{keys[0]}{f' and {len(keys) - 1} more' if len(keys) > 1 else ''}"
    return [f"{first}: for the student only; the teacher is trained by teacher.train, such as teacher.{keys[0]}"]


def _leaves(content: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the keys that lead to each value of nested mappings, and the value."""
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def parse_setting(setting: str) -> dict[str, Any]:
    """Parse `a.b=1` to `{"a": {"b": 1}}`. The value is read as YAML.

    Raises:
        UserError: The setting is not `key=value`, or the value is not valid YAML.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in setting):  # bytes of a path that are not UTF-8
        raise UserError(f"--set {setting[:200]}: not text in UTF-8, as recipes are; for a path, give a link to it")
    key, separator, text = setting.partition("=")
    parts = key.split(".")
    if not separator or not all(parts) or len(parts) > strict_yaml.MAX_DEPTH:
        raise UserError(f"--set {setting[:200]}: must be key=value, for example --set train.schedule.epochs=2")
    try:
        value = strict_yaml.load(text)
    except ValueError as error:
        raise UserError(f"--set {setting[:200]}: {error}") from error
    if value == {} and is_section(tuple(parts)):
        raise UserError(f"--set {setting}: changes nothing; set single keys, such as --set train.schedule.epochs=2")
    for part in reversed(parts):
        value = {part: value}
    return value


@dataclass(frozen=True, slots=True)
class _Layers:
    """The changes of the user, in the order in which they are merged."""

    preset: dict[str, Any]
    """The preset or the pair."""
    base_name: str
    """Their name in error messages, such as "preset rkd-cub"; "" if there is neither."""
    config: dict[str, Any]
    config_name: str
    """Name of the config in error messages."""
    names: dict[str, Any]
    """The names of method and dataset given as options."""
    cleared: dict[str, Any]
    """Empty `args` of networks that `--set` empties, perhaps to set some of them anew."""
    settings: dict[str, Any]
    """`--set`, and the seed."""

    def in_order(self) -> Iterator[dict[str, Any]]:
        yield from (self.preset, self.config, self.names, self.cleared, self.settings)

    def without_presets(self) -> "_Layers":
        preset, config, names, cleared, settings = map(_without_preset, self.in_order())
        return _Layers(preset, self.base_name, config, self.config_name, names, cleared, settings)


def _read_layers(
    method: str | None,
    dataset: str | None,
    config: Path | Mapping[str, Any] | None,
    settings: Sequence[str],
    seed: int | None,
    preset: str | None = None,
    pair: str | None = None,
) -> _Layers:
    content = strict_yaml.read(config, "config", "seed: 1") if isinstance(config, Path) else _plain(config or {})
    names = {"method": {"name": method} if method else {}, "dataset": {"name": dataset} if dataset else {}}
    changes: dict[str, Any] = {} if seed is None else {"seed": seed}
    cleared: dict[str, Any] = {}
    for setting in settings:
        change = _listed_teachers(_expand_names(parse_setting(setting)), "--set")
        _require_sections(change, "--set")
        if change in _EMPTY_ARGS:
            cleared = merge(cleared, change)
            changes = _merge_layer(changes, change)
        else:
            changes = merge(changes, change)
    name = str(config) if isinstance(config, Path) else "config"
    content = _listed_teachers(_expand_names(content), name)
    _require_sections(content, name)
    if dataset:
        content, changes = (_label_own_data(layer, dataset) for layer in (content, changes))
    if "pair" in changes or ("pair" in content and "version" not in content):
        raise UserError(f"pair in {'--set' if 'pair' in changes else name}: give the pair as the option --pair")
    base: dict[str, Any] = {}
    base_name = ""
    if pair is not None:
        base, base_name = find_pair(pair).layer, f"pair {pair}"
    if preset is not None:
        by_priority = (changes, names, content)
        base = find_preset(preset).layer(_named("method", by_priority), _named("dataset", by_priority))
        base_name = f"preset {preset}"
    return _Layers(base, base_name, content, name, names, cleared, changes)


def _named(section: str, layers: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the name in a section of the first of the layers that has one."""
    sections = (layer.get(section) for layer in layers)
    return next((part["name"] for part in sections if isinstance(part, Mapping) and part.get("name")), None)


def _listed_teachers(layer: dict[str, Any], place: str) -> dict[str, Any]:
    """Expand `teacher: [first, second]` to `teacher: first` and `more_teachers: [second]`.

    An entry is a section, or the name of a teacher as for `--teacher`.

    Raises:
        UserError: It is neither, or there is none.
    """
    teachers = layer.get("teacher")
    if not isinstance(teachers, list):
        return layer
    if not teachers or not all(isinstance(each, str | Mapping) for each in teachers):
        raise UserError(
            f"teacher in {place}: {teachers!r:.200}: the entries of a list must be sections, or the names of teachers"
        )
    first, *others = (_named_teacher(each) if isinstance(each, str) else each for each in teachers)
    return {**layer, "teacher": first, "more_teachers": others}


def _named_teacher(name: str) -> dict[str, Any]:
    """Return the section of a teacher that is named in a list. A run folder has the teacher's network."""
    file = user_path(name) / "recipe.yaml"
    if not file.is_file():
        return {"checkpoint": _checkpoint(name)}
    network = strict_yaml.read(file, "recipe", "student: {}").get("student")
    known = {key: value for key, value in network.items() if key != "weights"} if isinstance(network, Mapping) else {}
    return {"checkpoint": name, "network": known}


def _merge_teacher(built_in: Mapping[str, Any], change: Any) -> Any:
    """Merge one of several teachers over that of the built-in recipe; the validation reports what is no section."""
    if not isinstance(change, Mapping):
        return change
    merged = _merge_layer({"teacher": built_in}, {"teacher": change})["teacher"]
    return {**merged, "checkpoint": None} if _replaces_checkpoint(change) else merged


def _replaces_checkpoint(teacher: Mapping[str, Any]) -> bool:
    """Whether a section replaces the checkpoint of the built-in recipe by a teacher that is frozen."""
    return teacher.get("frozen") is True and "checkpoint" not in teacher


def _require_sections(layer: Mapping[str, Any], place: str, path: tuple[str, ...] = ()) -> None:
    """Check that sections are mappings: anything else would be lost when another layer is merged over it.

    Raises:
        UserError: One is not.
    """
    if not path and DELETE in layer:
        raise UserError(f"{DELETE} in {place}: replaces a section; write it in one, such as train: {{{DELETE}: true}}")
    for key, value in layer.items():
        keys = (*path, key)
        if not is_section(keys):
            continue
        if not isinstance(value, Mapping):
            raise UserError(f"{'.'.join(keys)} in {place}: should be a mapping, not {value!r:.200}")
        _require_sections(value, place, keys)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a mapping with lists in place of tuples.

    Raises:
        UserError: It has values that no recipe can have, such as arrays.
    """
    try:
        return json.loads(json.dumps(dict(config)))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"config: only mappings, lists, text, numbers, booleans and None can be used: {error}"
        ) from error


def _label_own_data(layer: dict[str, Any], dataset: str) -> dict[str, Any]:
    """Take `dataset.name` for the label of the user's own images if it is not a registered name.

    `--dataset folder --set dataset.name=birds` is another way to write `--set dataset.label=birds`.
    """
    section = layer.get("dataset")
    registered = DATASETS.names()
    if not isinstance(section, Mapping) or section.get("name") in (None, *registered) or dataset not in registered:
        return layer
    if "label" not in inspect.signature(DATASETS.find(dataset)).parameters:
        return layer
    options = {key: value for key, value in section.items() if key != "name"}
    return {**layer, "dataset": {"label": section["name"], **options}}


def _missing_sections(content: Mapping[str, Any]) -> list[str]:
    added = ("budget", "settings", "pair", "more_teachers")  # which older files lack
    return [key for key in Recipe.model_fields if key not in content and key not in added]


def _merge_layer(base: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a layer over `base`. A student with the key `like` replaces the student of `base`."""
    base, student, teacher = dict(base), layer.get("student"), layer.get("teacher")
    if isinstance(student, Mapping) and "student" in base:
        base["student"] = {} if "like" in student else _without_replaced_args(base["student"], student)
    if isinstance(teacher, Mapping) and isinstance(below := base.get("teacher"), Mapping) and "network" in below:
        network = _without_replaced_args(below["network"], teacher.get("network"))
        base["teacher"] = {**below, "network": network}
    for key in ("method", "dataset"):  # their arguments can be deleted, but not their names
        if isinstance(section := layer.get(key), Mapping) and DELETE in section and "name" in base.get(key, {}):
            layer = {**layer, key: {"name": base[key]["name"], **section}}
    try:
        return override(base, layer)
    except ValueError as error:
        raise UserError(str(error)) from error


def _without_replaced_args(network: Any, change: Any) -> Any:
    """Return a network without its `args` if `change` names another backbone or has empty `args`."""
    if not isinstance(network, Mapping) or not isinstance(change, Mapping) or "args" not in network:
        return network
    other = "backbone" in change and change["backbone"] != network.get("backbone")
    return {**network, "args": {}} if other or change.get("args") == {} else network


def _resolve_like_teacher(content: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Replace `student: {like: teacher, ...}` by the teacher's network with the other keys merged over it.

    Returns:
        The content, and whether the student was replaced.
    """
    student, teacher = content.get("student"), content.get("teacher")
    if not isinstance(student, Mapping) or "like" not in student:
        return content, False
    if student["like"] != "teacher":
        raise UserError(f"student.like: must be 'teacher', not {student['like']!r}")
    network = teacher.get("network") if isinstance(teacher, Mapping) else None
    base: Mapping[str, Any] = network if isinstance(network, Mapping) else {}
    changes = {key: student[key] for key in student if key != "like"}
    return {**content, "student": merge(_without_replaced_args(base, changes), changes)}, True


def _names(user: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of method and dataset.

    Raises:
        UserError: A name is missing or not registered.
    """
    problems = []
    for registry in (METHODS, DATASETS):
        section = user[registry.name]
        name = section.get("name") if isinstance(section, Mapping) else section
        if name is None:
            problems.append(f"no {registry.name}: give --{registry.name} NAME, or `{registry.name}: NAME` in --config")
            continue
        try:
            registry.find(name if isinstance(name, str) else repr(name))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return user["method"]["name"], user["dataset"]["name"]


def _preset_arguments(method: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the preset that the section `method` names.

    In a combination, each method has its own preset, which the combination's preset overrides.

    Raises:
        UserError: The method does not have the preset.
    """
    cls = METHODS.find(method)
    arguments: dict[str, Any] = {
        part: _preset_arguments(part, section[part]) for part in cls.parts if isinstance(section.get(part), Mapping)
    }
    name = section.get("preset")
    if name is None:
        return arguments
    if not isinstance(name, str) or name not in cls.presets:
        known = ", ".join(cls.presets) or "none"
        raise UserError(f"{method} has no preset {name!r}{nearest(str(name), cls.presets)} Known: {known}.")
    return merge(arguments, cls.presets[name])


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The tuned arguments that the user chose, if any."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the method; in a combination, of each method."""
    file: TunedSettings | None = None
    path: Path = Path()

    @classmethod
    def of(cls, method: str, user: Mapping[str, Any], preset: Mapping[str, Any]) -> Self:
        """Read the tuned arguments of a method that has a search space.

        Raises:
            UserError: The file cannot be read, is not valid or lacks the method, or a preset is chosen too.
        """
        section = user.get("settings", {})
        source = section.get("source", PUBLISHED) if isinstance(section, Mapping) else section
        if source == PUBLISHED:
            return cls()
        if not isinstance(source, str):
            raise UserError(f"settings: must be published or a file, not {source!r:.200}")
        if preset:
            raise UserError(f"settings: {source} and method.preset both choose arguments; give one of them")
        path = user_path(source)
        file = TunedSettings.read(path)
        method_class = METHODS.find(method)
        arguments: Mapping[str, Any]
        if not method_class.parts:
            arguments = file.arguments(method, path) if method_class.search else {}
        else:
            tuned = {name: part for name, part in method_class.parts.items() if part.search}
            arguments = {name: dict(file.arguments(name, path)) for name in tuned}
        return cls(dict(arguments), file, path)

    def apply(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the statement that it has tuned arguments, if any has not been changed by the user.

        Raises:
            UserError: The arguments were tuned for another dataset.
        """
        if self.file is None:
            return recipe
        self.file.require_dataset(recipe.dataset.name, recipe.recorded()["dataset"], self.path)
        if not _overlap(self.arguments, recipe.method.arguments):
            return recipe
        return recipe.model_copy(update={"settings": Settings(source="tuned", study=self.file.hash)})


def _overlap(chosen: Mapping[str, Any], final: Mapping[str, Any]) -> bool:
    """Return whether nested mappings have a value in common."""
    return any(
        _overlap(value, final[name]) if isinstance(value, Mapping) else value == final[name]
        for name, value in chosen.items()
        if name in final
    )


def _without_preset(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layer without the key `method.preset`, and without the presets of the methods of a combination."""
    method = layer.get("method")
    if not isinstance(method, Mapping):
        return dict(layer)
    arguments = {key: value for key, value in method.items() if key != "preset"}
    for key, value in arguments.items():
        if isinstance(value, Mapping):
            arguments[key] = {inner: argument for inner, argument in value.items() if inner != "preset"}
    return {**layer, "method": arguments}


def _built_in(method: str, dataset: str, preset: Mapping[str, Any], budget: float | None) -> dict[str, Any]:
    """Merge the defaults, the dataset's recipe, the student or the target of the budget, and the method's recipe.

    The teacher is trained by the dataset's recipe, independent of the method.
    """
    dataset_cls, method_cls = DATASETS.find(dataset), METHODS.find(method)
    fragment = dataset_cls.recipe
    for name, layer in {dataset: fragment, method: method_cls.recipe}.items():
        _require_sections(layer, f"the recipe of {name}")
    defaults = Recipe(dataset=Component(name=dataset), method=Component(name=method)).model_dump(exclude={"version"})
    content = _merge_layer(defaults, fragment)
    content["teacher"]["train"] = merge(content["train"], fragment.get("teacher", {}).get("train", {}))
    arguments: Mapping[str, Any] = {}
    if budget is not None:
        targets = _targets(method_cls, budget, preset)
        if targets is None:
            content = _merge_layer(content, {"student": _student_of(dataset_cls, budget)})
        else:
            arguments = targets
    return merge(_merge_layer(content, method_cls.recipe), {"method": arguments})


def _targets(method: "type[Method]", budget: float, preset: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the arguments that set the budget of a method that compresses; None for methods that do not.

    If a preset of the method is chosen, the method's `budget_arguments` are not used.

    Raises:
        UserError: The method compresses without a target.
    """
    if not method.compresses:
        return None
    for name, part in method.parts.items():
        if (targets := _targets(part, budget, preset.get(name, {}))) is not None:
            return {name: targets}
    if "target_macs" not in inspect.signature(method).parameters:
        raise UserError(f"budget: {method.name} compresses without a target for the MACs: set budget to null")
    return {**({} if preset else method.budget_arguments), "target_macs": budget}


def _student_of(dataset: type[RetrievalDataset], budget: float) -> Mapping[str, Any]:
    """Return the changes that adapt the recipe's student to a budget.

    Raises:
        UserError: The dataset has no student for the budget.
    """
    if budget not in dataset.students:
        known = ", ".join(map(str, dataset.students)) or "none"
        raise UserError(
            f"budget: {dataset.name} has no student of {budget} times the teacher's MACs. Known: {known}. Or set "
            "budget to null and the keys of `student`"
        )
    return dataset.students[budget]


def _expand_names(content: dict[str, Any]) -> dict[str, Any]:
    """Expand `method: kd` to `method: {name: kd}`, and the same for the dataset and the settings."""
    short = {key: {"name": content[key]} for key in ("method", "dataset") if isinstance(content.get(key), str)}
    if isinstance(source := content.get("settings"), str):
        short["settings"] = {"source": source}
    return {**content, **short}
