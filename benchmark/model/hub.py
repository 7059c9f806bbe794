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
_NAME = re.compile(re.escape(PREFIX) + r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubBackbone:
    """What a repository states about its network."""

    architecture: str
    """timm's name."""
    args: Mapping[str, Any]
    pretrained: Mapping[str, Any]
    """The settings of the weights, such as `mean` and `std`."""


def is_hub(backbone: str) -> bool:
    """Whether a backbone is in a repository of the Hub."""
    return backbone.startswith(PREFIX)


@lru_cache(maxsize=64)
def find_hub_backbone(backbone: str) -> HubBackbone:
    """Return what the repository of a backbone states, from the cache of the Hub if it is there.

    Args:
        backbone: `hf-hub:OWNER/NAME`.

    Raises:
        UserError: The name is not valid, the repository cannot be read, or it is not of timm.
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
    return HubBackbone(architecture, args, settings)


def _config(backbone: str, repository: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, "config.json", revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    try:
        return Path(hf_hub_download(repository, "config.json", revision=revision))
    except Exception as error:  # its errors have several base classes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"backbone {backbone}: the repository is not on this machine and could not be downloaded ({reason}): check "
            "the name, connect the machine, or copy the cache of one that has it"
        ) from error
