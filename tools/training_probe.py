"""A training of any size on random images, and what its steps cost: used by gpu_check.py."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from step_cost import build_network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.data.batch import Batch
from benchmark.data.samples import Sample
from benchmark.engine.distiller import Distiller
from benchmark.engine.optimization import build_optimizer
from benchmark.engine.train import assemble, optim_wrapper
from benchmark.methods.cdd.gradient_reset import GradientReset
from benchmark.model.cost import LiveBytes
from benchmark.recipe import Recipe
from benchmark.registry import METHODS
from benchmark.utils.precision import tf32_products

_READ_BY_HOST = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
"""Operators whose result the host reads, for which it waits."""


class Training:
    """A method in training on one batch of random images, with the suite's own networks, losses and optimizer.

    The queues of CDD are full from the start.

    Args:
        recipe: The recipe.
        device: Where to train.
        images: Number of training images.
        identities: Number of training identities.
    """

    def __init__(self, recipe: Recipe, device: torch.device, images: int, identities: int) -> None:
        self.recipe, self.device = recipe, device
        torch.manual_seed(0)
        method = METHODS.find(recipe.method.name)(**recipe.method.arguments)
        teacher, student = (
            build_network(settings, identities, device) for settings in (recipe.teacher.network, recipe.student)
        )
        self.distiller: Distiller = assemble(
            student,
            teacher if method.needs.teacher else None,
            method,
            recipe=recipe,
            dataset=_labels(images, identities),
            steps_per_epoch=images // recipe.train.sampler.batch_size,
        ).to(device)
        optimizer = build_optimizer(self.distiller, recipe.train.optimizer)
        self.wrapper = optim_wrapper(self.distiller, optimizer, recipe, device)
        self.resets = [module for module in method.modules() if isinstance(module, GradientReset)]
        """The gradient resetting of CDD; empty for other methods."""
        for reset in self.resets:
            _fill(reset)
        self.batch = self._batch()

    def _batch(self) -> Batch:
        sampler, device = self.recipe.train.sampler, self.device
        count = sampler.batch_size
        images = torch.randint(0, 256, (count, 3, *self.recipe.image_size), dtype=torch.uint8, device=device)
        indices = torch.arange(count, device=device)
        return Batch(images, indices // sampler.images, torch.zeros_like(indices), indices)

    def step(self) -> None:
        """Train on the batch."""
        with tf32_products():
            self.distiller.train()
            self.distiller.train_step(self.batch, self.wrapper)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_memory(self) -> int:
        """Return the peak of the bytes of all tensors in a step; on a CPU, of those that the step creates."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.step()
            return torch.cuda.max_memory_allocated(self.device)
        with LiveBytes() as live:
            self.step()
        return live.peak


def _labels(images: int, identities: int) -> Any:
    """Return a dataset of image files that do not exist, of which a training reads only the labels."""
    samples = [Sample(Path(), image % identities, 0) for image in range(images)]
    return SimpleNamespace(labels={identity: identity for identity in range(identities)}, train=samples)


def _fill(reset: GradientReset) -> None:
    """Fill the queues with random features of unit length."""
    for number in range(len(reset.widths)):
        queue = reset.get_buffer(f"queue{number}")
        queue.copy_(F.normalize(torch.rand_like(queue)))
    reset.filled = reset.queue_size


class ModuleTimer:
    """The time that a module's forward passes take on the device.

    Args:
        module: The module.
        device: Where it computes.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[Any, Any]] = []
        self.arguments: tuple[Sequence[Tensor], ...] = ()
        """The arguments of the last forward pass."""
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(self._end)

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _begin(self, module: nn.Module, arguments: tuple[Sequence[Tensor], ...]) -> None:
        self.arguments = arguments
        self._start = self._mark()

    def _end(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._marks.append((self._start, self._mark()))

    def seconds(self) -> float:
        """Return the total time of all forward passes. The device has to be synchronized."""
        if self._on_gpu:
            return sum(start.elapsed_time(end) for start, end in self._marks) / 1000
        return sum(end - start for start, end in self._marks)


def count_waits(function: Callable[[], Any], device: torch.device) -> int:
    """Return how often the host waits for the device in a call, or would wait if the device were a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        with _sync_warnings() as caught:
            function()
        return sum("synchronizing CUDA operation" in str(each.message) for each in caught)
    with _HostReads() as reads:
        function()
    return reads.count


class _HostReads(TorchDispatchMode):
    """Counts the operators whose result the host reads."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in _READ_BY_HOST
        return func(*args, **(kwargs or {}))


@contextmanager
def _sync_warnings() -> Iterator[list[warnings.WarningMessage]]:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        torch.cuda.set_sync_debug_mode("default")
