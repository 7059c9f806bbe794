"""The cost of a network: parameters, multiply-accumulates (MACs) and peak memory."""

import copy
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmark.errors import UserError
from benchmark.model.plugin import PluginBackbone

BATCHES = (1, 64)
"""Batch sizes at which latency is measured. Peak memory is measured at the last of them."""

_CLASSIFIERS = ("head.", "backbone.model.logits.")
"""Beginnings of the names of parameters that embeddings do not depend on; the latter are of a plugin."""


@dataclass(frozen=True, slots=True)
class Size:
    """Parameters, and multiply-accumulates (MACs) for one image. FLOPs are twice the MACs."""

    parameters: int
    macs: int


@torch.no_grad()
def count(network: nn.Module, image_size: tuple[int, int]) -> Size:
    """Count the parameters and MACs of a network, without its classifier head.

    MACs are half of the FLOPs counted by `torch.utils.flop_counter`, which covers convolutions, matrix products and
    attention, and ignores elementwise operations. Only shapes are propagated (on the `meta` device), so the count is
    exact and fast.

    Args:
        network: Maps (B, 3, H, W) uint8 images to embeddings.
        image_size: (height, width) of one image.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton

    # Without gradients: the counter tracks modules by hooks that fail on views of parameters made under `no_grad`.
    plugin = getattr(network, "backbone", None)
    if isinstance(plugin, PluginBackbone):  # whose code may need values
        shapes, device = network.eval(), next((value.device for value in network.buffers()), torch.device("cpu"))
    else:
        shapes, device = copy.deepcopy(network).to("meta").eval().requires_grad_(False), torch.device("meta")
    with FlopCounterMode(display=False) as counter:
        shapes(torch.zeros(1, 3, *image_size, dtype=torch.uint8, device=device))
    parameters = sum(p.numel() for name, p in network.named_parameters() if not name.startswith(_CLASSIFIERS))
    size = Size(parameters, counter.get_total_flops() // 2)
    if isinstance(plugin, PluginBackbone):
        size = size if plugin.cost is None else Size(*plugin.cost)
        if not size.parameters or not size.macs:
            raise UserError(
                f"the cost of the teacher {plugin.name} cannot be counted, because it computes outside of PyTorch: "
                "give its class an attribute `cost`, the numbers of its parameters and of its MACs per image"
            )
    return size


@torch.inference_mode()
def peak_memory(network: nn.Module, image_size: tuple[int, int], device: torch.device) -> float:
    """Measure the peak memory of weights and activations in a forward pass at the largest batch size of `BATCHES`.

    Args:
        network: On `device`, in eval mode.
        image_size: (height, width).
        device: Where `network` is.

    Returns:
        MiB.
    """
    images = torch.zeros(BATCHES[-1], 3, *image_size, dtype=torch.uint8, device=device)
    weights = sum(t.numel() * t.element_size() for t in [*network.parameters(), *network.buffers()])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        network(images)
        return (weights + torch.cuda.max_memory_allocated(device) - before) / 2**20
    with LiveBytes() as live:
        network(images)
    return (weights + live.peak) / 2**20


class LiveBytes(TorchDispatchMode):
    """Tracks the bytes of the tensor storages that operators create, until the storages are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            # A view shares the storage of an input and takes no memory.
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage())._cdata not in inputs:
                size = storage.nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, size)
        return output

    def _free(self, size: int) -> None:
        self.now -= size
