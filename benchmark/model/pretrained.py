"""Whether timm's published weights of a backbone can be loaded, before a network needs them."""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from benchmark.errors import UserError
from benchmark.model.hub import PREFIX, is_hub

TIMEOUT = 5.0
"""Time in seconds to wait for an answer of the server with the weights."""
_FILES = ("model.safetensors", "pytorch_model.bin")
"""File names of weights in a repository of the Hugging Face Hub, in the order in which timm looks for them."""


def require_pretrained(backbone: str) -> str | None:
    """Check that the published weights of a backbone are on this machine or can be downloaded.

    Args:
        backbone: A model name of timm, or `hf-hub:OWNER/NAME`.

    Returns:
        What will be downloaded; None if nothing.

    Raises:
        UserError: There are no such weights, or they are not on this machine and the server cannot be reached.
    """
    import timm
    from huggingface_hub import constants

    if is_hub(backbone):
        repository: str | None = backbone.removeprefix(PREFIX)
        url = None
    else:
        config = timm.get_pretrained_cfg(backbone)
        if config is None or not config.has_weights:
            raise UserError(f"timm has no pretrained weights for {backbone}: set the weights to `random` or to a file")
        repository, url = config.hf_hub_id, config.url
    if repository:
        address, cached = f"{constants.ENDPOINT}/{repository}", _in_hub_cache(repository)
    else:
        address, cached = str(url), _in_torch_cache(str(url))
    if cached:
        return None
    missing = f"the pretrained weights of {backbone} ({address}) are not on this machine"
    remedy = "connect it, copy the cache of a machine that has them, or set the weights to `random` or to a file"
    if repository and constants.HF_HUB_OFFLINE:
        raise UserError(f"{missing}, and HF_HUB_OFFLINE forbids downloading them: unset it, or {remedy}")
    if not _reachable(address):
        raise UserError(f"{missing}, and the server cannot be reached: {remedy}")
    return f"the pretrained weights of {backbone} will be downloaded from {address}"


def _in_hub_cache(repository: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = repository.partition("@")
    return any(isinstance(try_to_load_from_cache(name, file, revision=revision or None), str) for file in _FILES)


def _in_torch_cache(url: str) -> bool:
    import torch

    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name).is_file()


def _reachable(address: str) -> bool:
    """Whether the server accepts connections; True behind a proxy, which only a download can test."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)), TIMEOUT):
            return True
    except OSError:
        return False
