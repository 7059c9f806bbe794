"""Latency, with a clock that the tests set."""

import subprocess
import sys
import time
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from benchmark.model.latency import Latency, latency

CPU = torch.device("cpu")


class Sleeper(nn.Module):
    """A network that takes a given time per pass, and more for the first passes of a batch size."""

    def __init__(self, seconds: float, cold: int = 0) -> None:
        super().__init__()
        self.seconds, self.cold = seconds, cold
        self.passes: list[int] = []

    def forward(self, images: Tensor) -> None:
        self.passes.append(len(images))
        time.sleep(self.seconds * (20 if self.passes.count(len(images)) <= self.cold else 1))


def test_percentiles():
    measured = Latency.of([0.001 * number for number in range(1, 102)])
    assert (measured.median, measured.low, measured.high) == pytest.approx((51, 11, 91))
    assert measured.quartiles == pytest.approx((26, 76))


def test_warm_up_is_not_counted():
    network = Sleeper(0.002, cold=3)
    measured = latency(network, (4, 4), CPU)
    assert set(measured.of_batch) == set(network.passes) == {1, 64}
    assert all(2 <= each.median < 20 for each in measured.of_batch.values())
    assert measured.threads == torch.get_num_threads()


def test_time_is_limited(monkeypatch):
    monkeypatch.setattr("benchmark.model.latency._MAX_SECONDS", 0.2)
    network = Sleeper(0.11)
    latency(network, (4, 4), CPU)
    assert all(network.passes.count(batch) < 15 for batch in (1, 64))


def test_load_of_other_processes_is_noticed():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            assert latency(Sleeper(0.02), (4, 4), CPU).load > 0.2
        finally:
            other.kill()


def test_own_computation_is_no_load(monkeypatch):
    """The processor time of the machine grows by 3 s, of which 2 s are of this process, and the idle time by 90 s."""
    times = namedtuple("times", "user system idle")
    machine, own = iter([times(10, 1, 5), times(12, 2, 95)]), iter([times(1, 0, 0), times(2, 1, 0)])
    process = SimpleNamespace(cpu_times=lambda: next(own))
    fake = SimpleNamespace(cpu_times=lambda: next(machine), Process=lambda: process)
    monkeypatch.setattr("benchmark.model.latency.psutil", fake)
    clock = iter([100.0, 104.0])
    monkeypatch.setattr("benchmark.model.latency.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert latency(Sleeper(0.001), (4, 4), CPU).load == 1 / 4
