"""The cost of a deployed student as a function of its pruned widths."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.model.cost import Size
from benchmark.model.embedder import Embedder
from benchmark.model.residual_blocks import deployed_size


class PrunedChannels(Protocol):
    """Channels of a network of which a method can remove any number."""

    @property
    def width(self) -> int:
        """Number of channels."""
        ...

    @property
    def source(self) -> str:
        """Name within the backbone of the layer that computes the channels in the deployed network.

        It is a convolution, or a batch norm that is replaced by a 1x1 convolution without bias.
        """
        ...

    @property
    def readers(self) -> Sequence[str]:
        """Names within the backbone of the other layers whose cost depends on the channels."""
        ...

    @property
    def biases(self) -> int:
        """Number of biases of the deployed network for each channel."""
        ...


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer whose cost is proportional to the product of pruned widths."""

    on: list[int]
    """Numbers of the widths."""
    macs: int
    """MACs for one image, for widths of 1."""
    weights: int
    """Number of weights without bias, for widths of 1."""
    added: bool
    """Whether only the deployed network has the layer."""

    def times(self, widths: np.ndarray) -> np.ndarray:
        """Map (n, all widths) to (n,): the product of the widths of this layer."""
        product: np.ndarray = widths[:, self.on].astype(np.int64).prod(axis=1)
        return product


class WidthCost:
    """Parameters and MACs of the deployed network for any pruned widths, without building a network.

    A convolution has (input channels) x (output channels) x constant weights and MACs, and after folding its batch norm
    a bias for each output channel. All other costs are constant. The result is exact: it equals
    `benchmark.model.cost.count` of the deployed network.

    Args:
        network: The student before the method changes it, on any device, including `meta`.
        channels: The channels that the method prunes.
        image_size: (height, width).
    """

    def __init__(self, network: Embedder, channels: Sequence[PrunedChannels], image_size: tuple[int, int]) -> None:
        self.full = [each.width for each in channels]
        """The widths before pruning."""
        on: dict[str, list[int]] = {}
        for number, each in enumerate(channels):
            for name in (each.source, *each.readers):
                on.setdefault(name, []).append(number)
        shapes = copy.deepcopy(network).to("meta").eval()
        layers = _measured(shapes, on, self.full, image_size)
        self._layers = list(layers.values())
        self._biases = np.array([each.biases for each in channels])
        self._constant = Size(0, 0)
        full, scaled = deployed_size(shapes, image_size), self.size(self.full)
        added = [layer for layer in self._layers if layer.added]
        self._constant = Size(
            full.parameters - scaled.parameters + sum(layer.weights * self._product(layer) for layer in added),
            full.macs - scaled.macs + sum(layer.macs * self._product(layer) for layer in added),
        )

    def macs(self, widths: np.ndarray) -> np.ndarray:
        """Map (n, number of widths) to (n,) MACs for one image."""
        total = np.full(len(widths), self._constant.macs)
        for layer in self._layers:
            total += layer.macs * layer.times(widths)
        return total

    def parameters(self, widths: np.ndarray) -> np.ndarray:
        """Map (n, number of widths) to (n,) numbers of parameters."""
        total: np.ndarray = self._constant.parameters + widths @ self._biases
        for layer in self._layers:
            total += layer.weights * layer.times(widths)
        return total

    def size(self, widths: Sequence[int]) -> Size:
        """Return the cost of the deployed network with these widths."""
        row = np.array([widths])
        return Size(int(self.parameters(row)[0]), int(self.macs(row)[0]))

    def _product(self, layer: _Layer) -> int:
        return math.prod(self.full[number] for number in layer.on)


@torch.no_grad()
def _measured(
    shapes: Embedder, on: dict[str, list[int]], full: Sequence[int], image_size: tuple[int, int]
) -> dict[str, _Layer]:
    """Return the layers of a network on the `meta` device by name.

    Args:
        shapes: The network; it gets hooks that are removed again.
        on: For each layer, the numbers of the widths to which its cost is proportional.
        full: The widths.
        image_size: (height, width).
    """
    layers: dict[str, _Layer] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            pixels, channels = output.shape[2] * output.shape[3], output.shape[1]
            added = isinstance(module, nn.BatchNorm2d)
            if added:
                values = weights = channels**2
            elif isinstance(module, nn.Conv2d):
                values = weights = module.weight.numel()
            else:  # the filter of a blur layer
                values, weights = module.get_buffer("filt").numel(), 0
            unit = math.prod(full[number] for number in on[name])
            layers[name] = _Layer(on[name], pixels * values // unit, weights // unit, added)

        return hook

    handles = [shapes.backbone.get_submodule(name).register_forward_hook(record(name)) for name in on]
    shapes(torch.empty(1, 3, *image_size, dtype=torch.uint8, device="meta"))
    for handle in handles:
        handle.remove()
    return layers
