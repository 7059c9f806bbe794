"""The cost of a network as a function of how many rows its compactors have."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from timm.layers import BlurPool2d
from torch import Tensor, nn

from benchmark.compression.compactor import CompactableBlock
from benchmark.model.cost import count
from benchmark.model.embedder import Embedder


class WidthMACs:
    """MACs of the deployed network for any numbers of rows, without building it.

    A convolution costs (its inputs) x (its outputs) x a constant, and rows of compactors are inputs of the convolution
    that follows and, once folded, outputs of the one before. Everything else has a cost of its own. Exact: the same
    integers as `benchmark.model.cost.count`.

    Args:
        deployed: The deployed network with all its rows.
        places: Where the compactors were, of the student before merging.
        image_size: (height, width).
    """

    def __init__(self, deployed: Embedder, places: Sequence[CompactableBlock], image_size: tuple[int, int]) -> None:
        self.widths = np.array([place.width for place in places])
        scaled: dict[str, list[int]] = {}
        for i, place in enumerate(places):
            grouped = getattr(place.block, place.conv_name).groups > 1  # then the compactor stays
            parts = [place.norm_name if grouped else place.conv_name, place.following_name]
            if place.is_last and isinstance(place.block.aa, BlurPool2d):
                parts.append("aa")
            for name in parts:
                scaled.setdefault(f"{place.name}.{name}", []).append(i)
        macs = _macs(deployed, scaled.keys(), image_size)
        self.fixed = count(deployed, image_size).macs - sum(macs.values())
        self.scaled = [(macs[name] // math.prod(int(self.widths[i]) for i in on), on) for name, on in scaled.items()]

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """(n, places) rows that are left -> (n,) MACs of one image."""
        return self.fixed + sum(each * widths[:, on].astype(np.int64).prod(axis=1) for each, on in self.scaled)


@torch.no_grad()
def _macs(network: Embedder, names: Any, image_size: tuple[int, int]) -> dict[str, int]:
    """MACs of these convolutions (and blurs, which are convolutions too) of the backbone."""
    shapes = copy.deepcopy(network).to("meta").eval()
    found: dict[str, int] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kernel = module.filt if isinstance(module, BlurPool2d) else module.weight
            assert isinstance(kernel, Tensor)
            found[name] = output.shape[2] * output.shape[3] * kernel.numel()

        return hook

    for name in names:
        shapes.backbone.get_submodule(name).register_forward_hook(note(name))
    shapes(torch.empty(1, 3, *image_size, dtype=torch.uint8, device="meta"))
    return found
