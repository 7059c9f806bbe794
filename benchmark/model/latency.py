"""The latency of a network, and how busy the machine was while it was measured."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import psutil
import torch
from torch import Tensor

from benchmark.model.cost import BATCHES

if TYPE_CHECKING:
    from torch.utils.benchmark import Timer

_SPREAD = 0.1
"""A measurement ends when the quartiles differ by less than this fraction of the median."""
_MAX_SECONDS = 3.0
"""Longest time of a measurement, and of the warm-up before it."""
_WARM_PASSES = 5
"""The warm-up ends after this many passes without one that is the fastest so far by 5 %."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of forward passes in milliseconds: the median, the 10th and 90th percentile, and the quartiles."""

    median: float
    low: float
    high: float
    quartiles: tuple[float, float]

    @classmethod
    def of(cls, times: Sequence[float]) -> Self:
        """Return the latency of passes that took these times in seconds."""
        low, first, median, third, high = np.percentile(times, [10, 25, 50, 75, 90]) * 1000
        return cls(float(median), float(low), float(high), (float(first), float(third)))


@dataclass(frozen=True, slots=True)
class Latencies:
    """The latency for each batch size of `BATCHES`.

    Attributes:
        of_batch: The latency by batch size.
        threads: Number of CPU threads.
        load: Mean number of processor cores that other processes used during the measurement.
    """

    of_batch: Mapping[int, Latency]
    threads: int
    load: float


@torch.inference_mode()
def latency(network: Callable[[Tensor], Tensor], image_size: tuple[int, int], device: torch.device) -> Latencies:
    """Measure the latency of a forward pass, with the current number of threads.

    After a warm-up until passes do not become faster, blocks of passes are timed until the spread of their means is
    small, for three seconds at most.

    Args:
        network: Maps (B, 3, H, W) uint8 images on `device` to embeddings; in eval mode.
        image_size: (height, width).
        device: Where `network` is.
    """
    timer_of = _timers()
    threads, busy, start = torch.get_num_threads(), _others_seconds(), time.perf_counter()
    found = {}
    for batch in BATCHES:
        images = torch.zeros(batch, 3, *image_size, dtype=torch.uint8, device=device)
        timer = timer_of("network(images)", globals={"network": network, "images": images}, num_threads=threads)
        _warm_up(timer)
        found[batch] = Latency.of(timer.adaptive_autorange(_SPREAD, max_run_time=_MAX_SECONDS).times)
    load = (_others_seconds() - busy) / (time.perf_counter() - start)
    return Latencies(found, threads, max(0.0, load))


def _timers() -> "type[Timer]":
    """Return the class of torch's timers, which wait for the device before they read the clock."""
    # Its import warns of missing GPUs if there is a CUDA compiler.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    return Timer


def _warm_up(timer: "Timer") -> None:
    """Run passes until they do not become faster."""
    fastest = seconds = timer.timeit(1).median
    slower = 0
    while slower < _WARM_PASSES and seconds < _MAX_SECONDS:
        duration = timer.timeit(1).median
        seconds += duration
        slower = 0 if duration < 0.95 * fastest else slower + 1
        fastest = min(fastest, duration)


def _others_seconds() -> float:
    """Return the processor time that everything except this process has used since the machine was started."""
    total, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = total.idle + getattr(total, "iowait", 0.0)
    guests = getattr(total, "guest", 0.0) + getattr(total, "guest_nice", 0.0)  # contained in user and nice
    return sum(total) - idle - guests - own.user - own.system
