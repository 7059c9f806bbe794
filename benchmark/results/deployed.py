"""The cost of the deployed network of a recipe, found by building it again with random weights."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.model.cost import LiveBytes, count
from benchmark.model.fold import fold_batchnorm
from benchmark.model.residual_blocks import build
from benchmark.recipe import Network

_MAX_PARAMETERS = 10**8
_MAX_MACS = 2 * 10**10
_MAX_ACTIVATIONS = 2**30
"""Bytes. Networks beyond one of these limits are not run, which would take minutes or gigabytes."""


@dataclass(frozen=True, slots=True)
class DeployedSize:
    """The cost of a deployed network.

    Attributes:
        least_parameters: Smallest possible number of parameters, less than `parameters` only for networks that are too
            large to be run: which batch norms are folded shows only when a network runs.
        parameters: Largest possible number of parameters.
        macs: Multiply-accumulates for one image.
        embedding: Number of values of an embedding.
    """

    least_parameters: int
    parameters: int
    macs: int
    embedding: int


def deployed(network: Network, image_size: tuple[int, int], measured_at: tuple[int, int] | None = None) -> DeployedSize:
    """Return the cost of the deployed network. Each architecture is built once per process.

    Args:
        network: The architecture. Its weights and its classifier do not matter.
        image_size: (height, width) of the images that the network is run on.
        measured_at: (height, width) at which MACs are counted without running; `image_size` by default.

    Raises:
        UserError: The network cannot be built, or does not accept images of this size.
    """
    measured_at = measured_at or image_size
    architecture = network.model_dump(mode="json", exclude={"weights", "head", "scale"})
    size = _deployed(json.dumps(architecture, sort_keys=True), image_size, measured_at)
    if isinstance(size, UserError):
        raise size
    if isinstance(size, str):
        height, width = measured_at
        raise UserError(f"{network.backbone} with args {network.args} does not accept {height}x{width} images: {size}")
    return size


@cache
def _deployed(
    architecture: str, image_size: tuple[int, int], measured_at: tuple[int, int]
) -> DeployedSize | UserError | str:
    """Return the cost, or why there is none: failures are kept, too."""
    try:
        return _build(json.loads(architecture), image_size, measured_at)
    except UserError as error:
        return error.with_traceback(None)
    except Exception as error:  # whatever a backbone raises for its arguments or its images
        return str(error)


def _build(arguments: dict[str, Any], image_size: tuple[int, int], measured_at: tuple[int, int]) -> DeployedSize:
    bounds = _bounds(arguments, image_size, measured_at)
    if bounds is not None:
        return bounds
    network = build(**arguments)
    generator = torch.Generator().manual_seed(0)
    for module in _batch_norms(network):
        # Random statistics, as after training: with those of a new network, a batch norm that must not be folded would
        # hardly change the output.
        for name, values in module.state_dict(keep_vars=True).items():
            if values.is_floating_point():
                low = 0.5 if name in ("weight", "running_var") else -0.5
                values.data.uniform_(low, low + 1, generator=generator)
    images = torch.randint(0, 256, (2, 3, *image_size), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        size = count(fold_batchnorm(network, images), measured_at)
    return DeployedSize(size.parameters, size.parameters, size.macs, network.dim)


def _bounds(
    arguments: dict[str, Any], image_size: tuple[int, int], measured_at: tuple[int, int]
) -> DeployedSize | None:
    """Return the cost of a network that is too large to be run, by its shapes alone; None for any other network."""
    try:
        with torch.device("meta"):
            network = build(**arguments).eval().requires_grad_(False)
        with LiveBytes() as activations, torch.no_grad():
            network(torch.empty(2, 3, *image_size, dtype=torch.uint8, device="meta"))
        size = count(network, measured_at)
    except UserError:
        raise
    except Exception:
        return None  # a model of timm that needs values while it is built; other mistakes show when it is run
    if (
        size.parameters <= _MAX_PARAMETERS
        and activations.peak <= _MAX_ACTIVATIONS
        and count(network, image_size).macs <= _MAX_MACS
    ):
        return None
    # Folding a batch norm removes its two values per channel, and adds at most a bias.
    removed = sum(values.numel() for module in _batch_norms(network) for values in module.parameters())
    return DeployedSize(size.parameters - removed, size.parameters, size.macs, network.dim)


def _batch_norms(network: nn.Module) -> Iterator[nn.Module]:
    return (module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d))
