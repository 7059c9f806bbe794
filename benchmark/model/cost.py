"""What a network costs: parameters, multiply-accumulates, latency, memory."""

import copy
import statistics
import time
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

BATCHES = (1, 64)
"""Batch sizes at which latency is measured; peak memory is that of the last."""


@dataclass(frozen=True, slots=True)
class Size:
    """Parameters and multiply-accumulates (MACs) of one image. FLOPs are twice the MACs."""

    parameters: int
    macs: int


@torch.no_grad()
def count(network: nn.Module, image_size: tuple[int, int]) -> Size:
    """Parameters and MACs of `network` for one image of `image_size` (height, width).

    MACs are half of `torch.utils.flop_counter`'s FLOPs, which covers convolutions, matrix products and attention and
    leaves out elementwise work. Only shapes are propagated (on the `meta` device), so the answer is exact and
    immediate. A classifier head is not on the path to the embedding and is not counted, nor are its parameters.
    """
    shapes = copy.deepcopy(network).to("meta").eval()
    with FlopCounterMode(display=False) as counter:
        shapes(torch.empty(1, 3, *image_size, dtype=torch.uint8, device="meta"))
    parameters = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("head."))
    return Size(parameters, counter.get_total_flops() // 2)


@torch.inference_mode()
def latency(network: nn.Module, image_size: tuple[int, int], device: torch.device) -> dict[int, float]:
    """Median milliseconds of a forward pass at each of `BATCHES`, in the caller's thread setting.

    Twenty passes after two to warm up; of a slow network, as many as fit into three seconds, but at least three.
    """
    result = {}
    for batch in BATCHES:
        images = torch.zeros(batch, 3, *image_size, dtype=torch.uint8, device=device)
        times: list[float] = []
        while len(times) < 5 or (len(times) < 22 and sum(times) < 3):
            _wait(device)
            start = time.perf_counter()
            network(images)
            _wait(device)
            times.append(time.perf_counter() - start)
        result[batch] = 1000 * statistics.median(times[2:])
    return result


@torch.inference_mode()
def peak_memory(network: nn.Module, image_size: tuple[int, int], device: torch.device) -> float:
    """Peak MiB held by weights and activations during a forward pass at the largest of `BATCHES`."""
    images = torch.zeros(BATCHES[-1], 3, *image_size, dtype=torch.uint8, device=device)
    weights = sum(t.numel() * t.element_size() for t in [*network.parameters(), *network.buffers()])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        network(images)
        return (weights + torch.cuda.max_memory_allocated(device) - before) / 2**20
    with _LiveBytes() as live:
        network(images)
    return (weights + live.peak) / 2**20


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages that operators create and subtracts them when they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage())._cdata not in known:
                size = storage.nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, size)
        return output

    def _free(self, size: int) -> None:
        self.now -= size


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
