"""The masks of ResRep, which cover the rows of smallest norm, as many as the target cost requires."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmark import Embedder
from benchmark.compression.compactor import RowSite
from benchmark.model.cost import count


def lowest_rows(
    norms: Sequence[np.ndarray], macs: Callable[[np.ndarray], np.ndarray], allowed: float, limit: int
) -> list[np.ndarray]:
    """Choose the rows to mask: in ascending order of norm, until the remaining rows meet the target cost.

    The rows of all sites are ranked together. Among equal norms, the earlier site and then the lower row come first.
    The largest row of every site is not masked.

    Args:
        norms: For each site (width,).
        macs: Maps (n, sites) widths to (n,) costs.
        allowed: The target cost.
        limit: Maximum number of masked rows.

    Returns:
        For each site (width,) bool, True for masked rows.
    """
    widths = np.array([len(values) for values in norms])
    ends = np.cumsum(widths)
    site = np.repeat(np.arange(len(widths)), widths)
    row = np.arange(ends[-1]) - (ends - widths)[site]
    largest = np.array([values.argmax() for values in norms])[site] == row
    order = np.argsort(np.concatenate(list(norms)), kind="stable")
    order = order[~largest[order]]

    removed = np.zeros((len(order) + 1, len(widths)), dtype=np.int64)
    np.cumsum(site[order][:, None] == np.arange(len(widths)), axis=0, out=removed[1:])
    met = macs(widths - removed) <= allowed
    number = min(int(met.argmax()) if met.any() else len(order), max(limit, 0))
    masked = np.zeros(ends[-1], dtype=bool)
    masked[order[:number]] = True
    return np.split(masked, ends[:-1])


class WidthMACs:
    """MACs of the deployed network as a function of the widths of its compactors, without building the network.

    A convolution has (input channels) x (output channels) x constant MACs. The rows of a compactor are input channels
    of the next convolution and, once folded, output channels of the convolution before it. All other MACs are
    constant. The result is exact: it equals `benchmark.model.cost.count`.

    Args:
        deployed: The deployed network with all rows.
        sites: The sites of compactors in the student, before they are merged.
        image_size: (height, width).
    """

    def __init__(self, deployed: Embedder, sites: Sequence[RowSite], image_size: tuple[int, int]) -> None:
        from timm.layers import BlurPool2d

        self.widths = np.array([site.width for site in sites])
        scaled: dict[str, list[int]] = {}
        for i, site in enumerate(sites):
            grouped = site.conv.groups > 1  # then the compactor is not folded
            layers = [site.norm_name if grouped else site.conv_name, site.next_conv_name]
            if site.is_last and isinstance(site.block.aa, BlurPool2d):
                layers.append("aa")
            for name in layers:
                scaled.setdefault(f"{site.block_name}.{name}", []).append(i)
        macs = _layer_macs(deployed, list(scaled), image_size)
        self.constant = count(deployed, image_size).macs - sum(macs.values())
        self.scaled = [(macs[name] // math.prod(int(self.widths[i]) for i in on), on) for name, on in scaled.items()]
        """For each layer: MACs of one input and output channel, and the numbers of the sites whose widths it has."""

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """Map (n, sites) widths to (n,) MACs for one image."""
        return self.constant + sum(each * widths[:, on].astype(np.int64).prod(axis=1) for each, on in self.scaled)


@torch.no_grad()
def _layer_macs(network: Embedder, names: Sequence[str], image_size: tuple[int, int]) -> dict[str, int]:
    """Return the MACs of convolutions and blur filters of the backbone, by layer name."""
    shapes = copy.deepcopy(network).to("meta").eval()
    macs: dict[str, int] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            kernel = module.filt if hasattr(module, "filt") else module.weight
            assert isinstance(kernel, Tensor)
            macs[name] = output.shape[2] * output.shape[3] * kernel.numel()

        return hook

    for name in names:
        shapes.backbone.get_submodule(name).register_forward_hook(record(name))
    shapes(torch.empty(1, 3, *image_size, dtype=torch.uint8, device="meta"))
    return macs
