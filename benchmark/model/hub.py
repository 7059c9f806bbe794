"""Backbones in repositories of the Hugging Face Hub: `hf-hub:OWNER/NAME`, or `hf-hub:OWNER/NAME@REVISION`.

The repository states timm's name of the architecture, its arguments, and how images were normalized. A network that is
saved has these, and does not need the Hub again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.utils import strict_json

PREFIX = "hf-hub:"
"""Beginning of the name of such a backbone."""
_BOUNDS = {"mean": (0.0, 1.0), "std": (1e-3, 1.0)}
"""Smallest and largest value of the statistics of RGB values, as in a student file."""
_NAME = re.compile(re.escape(PREFIX) + r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubBackbone:
    """What a repository states about its network."""

    architecture: str
    """timm's name."""
    args: Mapping[str, Any]
    mean: tuple[float, ...]
    """Mean of RGB values in 0 .. 1; empty if it is not stated, as `std`."""
    std: tuple[float, ...]
    interpolation: str
    """How images are resized; empty if it is not stated."""


def is_hub(backbone: str) -> bool:
    """Whether a backbone is in a repository of the Hub."""
    return backbone.startswith(PREFIX)


@lru_cache(maxsize=64)
def find_hub_backbone(backbone: str) -> HubBackbone:
    """Return what the repository of a backbone states, from the cache of the Hub if it is there.

    Args:
        backbone: `hf-hub:OWNER/NAME`.

    Raises:
        UserError: The name is not valid, the repository cannot be read, it is not of timm, or images cannot be
            normalized as it states.
    """
    match = _NAME.fullmatch(backbone)
    if match is None:
        raise UserError(f"backbone {backbone[:200]}: must be {PREFIX}OWNER/NAME, perhaps with @REVISION")
    path = _config(backbone, match[1], match[2])
    try:
        content = strict_json.read(path)
    except (OSError, ValueError) as error:
        raise UserError(f"backbone {backbone}: {path} cannot be read: {error}") from error
    architecture = content.get("architecture") if isinstance(content, dict) else None
    args, settings = (content.get(key) or {} for key in ("model_args", "pretrained_cfg")) if architecture else ({}, {})
    if not isinstance(architecture, str) or not isinstance(args, dict) or not isinstance(settings, dict):
        raise UserError(
            f"backbone {backbone}: its config.json names no architecture of timm: choose a repository with the tag "
            "timm, or use plugin:transformers for a teacher"
        )
    mean, std = (_statistic(backbone, key, settings.get(key), *bounds) for key, bounds in _BOUNDS.items())
    return HubBackbone(architecture, args, mean, std, str(settings.get("interpolation", "")))


def _statistic(backbone: str, key: str, value: Any, least: float, largest: float) -> tuple[float, ...]:
    """Return a statistic of RGB values; empty if it is not stated."""
    if value is None:
        return ()
    numbers = isinstance(value, list) and all(isinstance(each, int | float) for each in value)
    if not numbers or len(value) != 3 or not all(least <= each <= largest for each in value):
        raise UserError(
            f"backbone {backbone}: its config.json states {key} {str(value)[:100]}, which must be three numbers from "
            f"{least:g} to {largest:g}: choose another repository"
        )
    return tuple(map(float, value))


def _config(backbone: str, repository: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(repository, "config.json", revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        return Path(hf_hub_download(repository, "config.json", revision=revision))
    except Exception as error:  # its errors have several base classes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"backbone {backbone}: the repository is not on this machine and could not be downloaded ({reason}): check "
            "the name, connect the machine, or copy the cache of one that has it"
        ) from error
