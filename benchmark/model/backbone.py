"""Backbones of timm, built from names and arguments that may come from a file of unknown origin."""

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from benchmark.errors import UserError, nearest
from benchmark.model.hub import find_hub_backbone, is_hub
from benchmark.model.plugin import STATISTICS, build_plugin, is_plugin

# timm takes longer to import than torch. It is imported where a network is built, so that commands that build none
# start fast.

MAX_MODULES = 10_000
"""Maximum number of modules in a backbone; the largest of timm has about 2,000."""
MAX_INTEGER = 2**20
"""Largest integer in the arguments of a backbone."""
MAX_ITEMS = 256
"""Maximum length of the strings, lists and mappings in the arguments of a backbone."""
_PLACEMENT = {"features_only", "out_indices", "feature_cls", "pruned", "num_classes", "in_chans", "device", "dtype"}
"""Arguments, in addition to those of timm's factories, that choose something else than the architecture."""

Interpolation = Literal["bilinear", "bicubic"]
"""How a network resizes images."""
RGB = tuple[float, float, float]
Statistics = tuple[RGB, RGB]
"""Mean and standard deviation of RGB values in 0 .. 1."""


def build_backbone(name: str, args: Mapping[str, Any], weights: str | None = None) -> Any:
    """Build a backbone without its classifier.

    Args:
        name: A model name of timm, with or without the tag of pretrained weights, or a plugin; see
            `benchmark.model.plugin`.
        args: Keyword arguments of the model. Those with which timm opens files or connections are refused.
        weights: Initialize it with the published weights of this name (downloads them): `name`, or a repository of the
            Hub that holds this architecture.

    Raises:
        UserError: The model is unknown, an argument is not allowed, or the model cannot be built.
    """
    import timm

    if is_plugin(name):
        return build_plugin(name, args)
    check_name(name)
    check_args(name, args)
    try:
        with _bounded(name):
            return timm.create_model(weights or name, pretrained=weights is not None, num_classes=0, **args)
    except UserError:
        raise
    except Exception as error:  # of any type: models check their arguments by failing
        if weights:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"the pretrained weights of {weights} could not be loaded ({reason}). "
                "Set teacher.network.weights and student.weights to a local file, or to `random`."
            ) from error
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown:
            with torch.device("meta"):
                known = inspect.signature(type(timm.create_model(name))).parameters
            raise UserError(f"{name} has no argument {unknown[1]!r}{nearest(unknown[1], known)}") from error
        raise UserError(_unusable(name, args)) from error


def _unusable(name: str, args: Mapping[str, Any]) -> str:
    """Return a message about arguments with which a backbone cannot be built: the one that is wrong, or all."""
    import timm

    for key in args:
        with suppress(Exception), torch.device("meta"), _bounded(name):
            timm.create_model(name, num_classes=0, **{other: args[other] for other in args if other != key})
            return f"{name} cannot be built with args.{key} = {args[key]!r}: correct its type or values, or remove it"
    return f"{name} cannot be built with args {dict(args)}: correct their types or values, or remove them"


def check_name(name: str) -> None:
    """Check that timm has a model of this name, and its tag.

    Raises:
        UserError: It has not. Names of models elsewhere, such as `hf-hub:...`, are refused, too.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if not re.fullmatch(r"\w+(\.[\w-]+)?", name, re.ASCII) or not timm.is_model(name):
        guess = nearest(architecture[:MAX_ITEMS], timm.list_models())
        raise UserError(f"unknown backbone {name[:MAX_ITEMS]!r}{guess} See `benchmark list backbones`.")
    if tag and timm.get_pretrained_cfg(architecture) is not None:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        if tag not in tags:
            raise UserError(
                f"backbone {name}: {architecture} has no weights {tag!r}{nearest(tag, tags)} "
                f"Known: {', '.join(tags) or 'none'}."
            )


def check_args(name: str, args: Mapping[str, Any]) -> None:
    """Check that the arguments of a backbone are plain values of limited size, and describe an architecture only.

    Raises:
        UserError: They do not.
    """
    for key, value in args.items():
        if not isinstance(key, str) or key in _factory_parameters():
            raise UserError(
                f"args of {name}: {key!r} is not an argument of the architecture. Initial weights are set with "
                "`weights`, and the classifier with `head`"
            )
        if not _is_plain(value):
            raise UserError(
                f"args of {name}: {key} must be a number, a string, or a list or mapping of these, with integers up to "
                f"{MAX_INTEGER:,} and at most {MAX_ITEMS} items"
            )


def pretrained_statistics(name: str) -> Statistics | None:
    """Return the statistics with which the images of a backbone's pretrained weights were normalized.

    None if timm does not know them for RGB images.
    """
    import timm

    if is_plugin(name):
        return STATISTICS
    if is_hub(name):
        stated = find_hub_backbone(name)
        mean, std = stated.mean, stated.std
    else:
        config = timm.get_pretrained_cfg(name)
        mean, std = ((), ()) if config is None else (config.mean, config.std)
    return (rgb(mean), rgb(std)) if len(mean) == len(std) == 3 else None


def pretrained_interpolation(name: str) -> Interpolation:
    """Return how images are resized for the published weights of a backbone: `bilinear` if that is not known."""
    import timm

    if is_plugin(name):
        return "bilinear"
    config = None if is_hub(name) else timm.get_pretrained_cfg(name)
    stated = find_hub_backbone(name).interpolation if is_hub(name) else getattr(config, "interpolation", "")
    return "bicubic" if stated == "bicubic" else "bilinear"


def accepted_size(backbone: Any, args: Mapping[str, Any]) -> tuple[int, int]:
    """Return the (height, width) of images for which a backbone is built: by `args`, or as its published weights."""
    size = args.get("img_size") or backbone.pretrained_cfg.get("input_size", (3, 224, 224))[1:]
    height, width = size if isinstance(size, Sequence) else (size, size)
    return height, width


def rgb(values: Sequence[float]) -> RGB:
    """Return three numbers as a tuple of floats."""
    red, green, blue = map(float, values)
    return red, green, blue


@cache
def _factory_parameters() -> frozenset[str]:
    """The parameters of the functions of timm that build any model: sources of weights, wrappers and placement."""
    import timm
    from timm.models import build_model_with_cfg

    factories = (timm.create_model, build_model_with_cfg)
    return frozenset(name for factory in factories for name in inspect.signature(factory).parameters) | _PLACEMENT


def _is_plain(value: Any, depth: int = 0) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) <= MAX_INTEGER
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return len(value) <= MAX_ITEMS
    if depth > 4 or not isinstance(value, Mapping | Sequence) or len(value) > MAX_ITEMS:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item, depth + 1) for key, item in value.items())
    return all(_is_plain(item, depth + 1) for item in value)


@contextmanager
def _bounded(name: str) -> Iterator[None]:
    """Stop building a model when it has too many modules, as `depth: 100000` would give."""
    count = 0

    def registered(parent: nn.Module, key: str, module: nn.Module | None) -> None:
        nonlocal count
        count += 1
        if count > MAX_MODULES:
            raise UserError(f"{name} would have more than {MAX_MODULES:,} modules: reduce its args")

    handle = register_module_module_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()
