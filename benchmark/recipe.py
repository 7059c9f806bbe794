"""A run's whole configuration.

Composed in this order, later over earlier: the defaults below, the dataset's recipe, the method's recipe, the user's
`--config` file, `--set key=value`. Validated as a whole before anything is built. The composed recipe is saved with the
run, holds every value, and replays it.
"""

import copy
import hashlib
import inspect
import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from benchmark.errors import UserError, nearest
from benchmark.registry import DATASETS, METHODS, PluginRegistry


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values are not coerced from other types."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(Section):
    """A teacher's or student's architecture; see `benchmark.model.embedder.Embedder`."""

    backbone: str = "resnet50"
    args: dict[str, Any] = {}
    stem: Literal["imagenet", "no_pool", "stride1"] = "imagenet"
    last_stride: Literal[1, 2] = 1
    pool: Literal["avg", "gem"] = "avg"
    neck: Literal["linear", "bn"] = "linear"
    dim: int = Field(512, gt=0)
    head: Literal["linear", "cosine"] = "linear"
    scale: float = Field(16.0, gt=0)
    weights: str = "imagenet"
    """Where training starts: `imagenet` (timm's pretrained), `random`, `teacher`, or a file."""


class Triplet(Section):
    """Batch-hard triplet loss."""

    weight: float = Field(1.0, ge=0)
    margin: float = Field(0.35, ge=0)
    feature: Literal["pooled", "embedding"] = "pooled"
    normalize: bool = False
    from_epoch: int = Field(1, ge=1)
    """First epoch (counted from 1) in which it is used."""


class Task(Section):
    """The loss of the retrieval task itself, the same for every method."""

    label_smoothing: float = Field(0.1, ge=0, lt=1)
    triplet: Triplet = Triplet()


class Optimizer(Section):
    type: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(5e-4, ge=0)
    clip_grad: float | None = Field(None, gt=0)


class Schedule(Section):
    """Linear warm-up from `warmup_factor`, a constant part, then a cosine to `final_factor`; set at every step."""

    epochs: int = Field(120, ge=1)
    warmup_epochs: int = Field(10, ge=0)
    warmup_factor: float = Field(0.1, gt=0, le=1)
    constant_until: int = Field(40, ge=0)
    """Epoch at which the cosine begins."""
    final_factor: float = Field(1e-5, ge=0, le=1)


class Sampler(Section):
    """Every batch holds `identities` x `images`."""

    identities: int = Field(16, ge=2)
    images: int = Field(6, ge=1)


class Augment(Section):
    pad: int = Field(10, ge=0)
    pad_mode: Literal["constant", "edge", "reflect"] = "constant"
    flip: float = Field(0.5, ge=0, le=1)
    erase: float = Field(0.5, ge=0, le=1)


class Train(Section):
    task: Task = Task()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    sampler: Sampler = Sampler()
    augment: Augment = Augment()


class Teacher(Section):
    """The large model: trained here with its own `train` section, or taken from `checkpoint`."""

    network: Network = Network(backbone="resnet101")
    train: Train = Train()
    seed: int = 0
    checkpoint: str | None = None
    """Folder of a finished run, or a file with the weights of the whole network."""


class Evaluate(Section):
    batch_size: int = Field(256, ge=1)
    every: int = Field(0, ge=0)
    """Validate the student every so many epochs during training; 0 never."""


class Runtime(Section):
    """How the work is done. What cannot change a result on one machine is not part of the recipe's hash."""

    amp: Literal["auto", "bf16", "off"] = "auto"
    compile: str | None = None
    """A torch.compile backend, such as `inductor`."""
    workers: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    """Threads of the CPU's operators; the machine's cores where empty."""
    tensorboard: bool = False


class Plugin(BaseModel):
    """The name of a registered method or dataset, and its constructor's arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Recipe(Section):
    """A run's whole configuration."""

    version: Literal[1] = 1
    dataset: Plugin
    method: Plugin
    seed: int = Field(0, ge=0)
    image_size: tuple[int, int] = (256, 256)
    """(height, width)"""
    teacher: Teacher = Teacher()
    student: Network = Network()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    runtime: Runtime = Runtime()

    @property
    def hash(self) -> str:
        """sha256 of everything that can change the result."""
        content = self.model_dump(mode="json")
        del content["runtime"]
        content["runtime"] = {"amp": self.runtime.amp, "compile": self.runtime.compile}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def yaml(self) -> str:
        """The recipe as YAML that `benchmark run --config` replays."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def for_teacher(self) -> "Recipe":
        """The recipe by which this recipe's teacher is trained: the teacher's network alone."""
        return self.model_copy(
            update={
                "method": Plugin(name="none"),
                "student": self.teacher.network,
                "train": self.teacher.train,
                "seed": self.teacher.seed,
                "teacher": self.teacher.model_copy(update={"train": Train()}),
            }
        )


def compose(
    method: str | None = None,
    dataset: str | None = None,
    config: Path | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
) -> Recipe:
    """Build the recipe of a run from its names, an optional file and `key=value` settings.

    Raises:
        UserError: A name is unknown, a key is misspelt or a value is of the wrong type. The message names the key,
            where it was given, and the nearest valid name.
    """
    chosen = {"method": {"name": method} if method else {}, "dataset": {"name": dataset} if dataset else {}}
    file = merge(_read(config), chosen) if config else chosen
    command_line: dict[str, Any] = {} if seed is None else {"seed": seed}
    for setting in settings:
        command_line = merge(command_line, _parse(setting))
    for key, option in (("method", "--method"), ("dataset", "--dataset")):
        if not file[key].get("name"):
            raise UserError(f"which {key}? Give {option} NAME, or `{key}: {{name: NAME}}` in --config.")
    base = {} if "version" in file else _fragments(file["method"]["name"], file["dataset"]["name"])
    content = merge(merge(base, file), command_line)
    student = content.get("student", {})
    if student.get("like") == "teacher":
        content["student"] = merge(content["teacher"]["network"], {k: v for k, v in student.items() if k != "like"})

    def origin(path: Sequence[Any]) -> str:
        return "--set" if _has(command_line, path) else str(config) if _has(file, path) else "a built-in recipe"

    try:
        recipe = Recipe.model_validate(content)
        method_arguments = _arguments(METHODS, recipe.method)
        dataset_arguments = _arguments(DATASETS, recipe.dataset)
    except ValidationError as error:
        raise UserError(_explain(error, content, origin)) from error
    return recipe.model_copy(update={"method": method_arguments, "dataset": dataset_arguments})


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top, mapping by mapping. A mapping with the key `like` replaces what was there."""
    result = dict(copy.deepcopy(base))
    for key, value in over.items():
        below = result.get(key)
        mergeable = isinstance(below, Mapping) and isinstance(value, Mapping) and "like" not in value
        result[key] = merge(below, value) if mergeable else copy.deepcopy(value)
    return result


def _fragments(method: str, dataset: str) -> dict[str, Any]:
    """Defaults, the dataset's recipe and the method's. The teacher trains as the dataset says, whatever the method."""
    fragment = DATASETS.find(dataset).recipe
    defaults = Recipe(dataset=Plugin(name=dataset), method=Plugin(name=method)).model_dump(exclude={"version"})
    content = merge(defaults, fragment)
    content["teacher"]["train"] = merge(content["train"], fragment.get("teacher", {}).get("train", {}))
    suited = {"method": DATASETS.find(dataset).method_arguments.get(method, {})}
    return merge(merge(content, METHODS.find(method).recipe), suited)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"config {path} must be a mapping of keys to values, such as `seed: 1`")
    for key in ("method", "dataset"):
        if isinstance(content.get(key), str):
            content[key] = {"name": content[key]}
    return content


def _parse(setting: str) -> dict[str, Any]:
    """`a.b=1` -> {"a": {"b": 1}}; the value is read as YAML."""
    key, separator, text = setting.partition("=")
    if not separator or not all(part for part in key.split(".")):
        raise UserError(f"--set {setting}: write it as key=value, for example --set train.schedule.epochs=2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {setting}: the value is not valid YAML") from error
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _has(content: Any, path: Sequence[Any]) -> bool:
    for key in path:
        if not isinstance(content, Mapping) or key not in content:
            return False
        content = content[key]
    return True


def _arguments(registry: PluginRegistry, plugin: Plugin) -> Plugin:
    """`plugin` with every constructor argument filled in and checked against the constructor's type hints."""
    constructor = registry.find(plugin.name).__init__
    hints = typing.get_type_hints(constructor)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name in ("self", "root") or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        fields[name] = (hints.get(name, Any), ... if parameter.default is parameter.empty else parameter.default)
    model = create_model(registry.name, __config__=ConfigDict(extra="forbid", title=registry.name), **fields)
    return Plugin(name=plugin.name, **model.model_validate(plugin.arguments).model_dump(mode="json"))


def _explain(error: ValidationError, content: Mapping[str, Any], origin: Any) -> str:
    """One line per mistake: the key, where it was given, what is wrong, the nearest valid key."""
    lines = []
    # A method's or dataset's arguments are validated on their own, below a title that is the section's name.
    prefix = (error.title,) if error.title in ("method", "dataset") else ()
    for problem in error.errors():
        path = (*prefix, *problem["loc"])
        key = ".".join(map(str, path))
        if problem["type"] == "extra_forbidden":
            siblings = _siblings(path, content)
            lines.append(
                f"unknown key {key!r} in {origin(path)}{nearest(str(path[-1]), siblings)} ({', '.join(siblings)})"
            )
        else:
            lines.append(f"{key} in {origin(path)}: {problem['msg']}, not {problem['input']!r}")
    return "\n".join(lines)


def _siblings(path: Sequence[Any], content: Mapping[str, Any]) -> list[str]:
    """The valid keys beside a recipe's key."""
    if path[0] in ("method", "dataset") and len(path) > 1:
        registry = METHODS if path[0] == "method" else DATASETS
        names = inspect.signature(registry.find(content[path[0]]["name"]).__init__).parameters
        return [name for name in names if name not in ("self", "root")]
    model: Any = Recipe
    for key in path[:-1]:
        model = model.model_fields[key].annotation
    return list(model.model_fields)
