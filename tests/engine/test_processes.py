"""Trainings shared by several processes: their gradients, and what they do together."""

import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from benchmark.registry import METHODS

WORKER = Path(__file__).with_name("gradient_worker.py")
ALL = (*METHODS.names(), "fitnet stages", "sp embedding", "cdd+sp", "whiten_mtd+unic")
LIVE = "live "
"""Beginning of the name of a step whose batch norms use the statistics of the batch, as in the worker."""


def start(command: list[str], processes: int, **options) -> list[subprocess.Popen]:
    """Start a command in several processes that share it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            command,
            env=os.environ
            | {
                "WORLD_SIZE": str(processes),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            **options,
        )
        for rank in range(processes)
    ]


@pytest.fixture(scope="module")
def steps(shared):
    """`steps(2, names)`: steps of methods by one process and by two."""

    @cache
    def run(processes: int, names: tuple[str, ...]) -> dict:
        def make(folder: Path) -> None:
            workers = start([sys.executable, str(WORKER), str(folder / "steps.pt"), *names], processes)
            for worker in workers:
                worker.wait(timeout=300)

        file = shared(f"steps-of-{processes}-{len(names)}", make) / "steps.pt"
        assert file.exists(), "the worker processes have failed"
        return torch.load(file, weights_only=True)

    return run


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """The distance of two sets of tensors, relative to the norm of the first."""
    assert first.keys() == second.keys()
    norms = [
        sum(float(value.double().square().sum()) for value in values)
        for values in ((first[name].double() - second[name].double() for name in first), first.values())
    ]
    return (norms[0] / max(norms[1], 1e-300)) ** 0.5


def check(one: dict, several: dict) -> None:
    assert several["loss"] == pytest.approx(one["loss"], rel=1e-12)
    assert distance(one["gradients"], several["gradients"]) < 1e-12
    assert several["structure"] == one["structure"]
    tensors = [
        {name: value for name, value in each["state"].items() if not name.endswith("extra_state")}
        for each in (one, several)
    ]
    assert distance(*tensors) < 1e-12
    for name in tensors[0]:
        if "mask" in name:
            assert torch.equal(tensors[0][name], tensors[1][name])


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ALL)
def test_a_step_of_several_processes(steps, name, processes):
    """The same as that of one process with the whole batch, if batch norms do not use batch statistics."""
    results = steps(processes, ALL)
    check(results["alone"][name], results["together"][name])


@pytest.mark.parametrize("name", ["none", "kd", "cdd"])
def test_synchronized_batch_norms(steps, name):
    """With the statistics of the whole batch, a step of two processes is that of one, running statistics included."""
    results = steps(2, tuple(f"{LIVE}{each}" for each in ("none", "kd", "cdd")))
    check(results["alone"][f"{LIVE}{name}"], results["together"][f"{LIVE}{name}"])


def test_masks_are_compared(steps):
    """Resetting has begun in the steps that are compared."""
    results = steps(2, ALL)
    for name in ("cdd", "resrep"):
        masks = [value for key, value in results["together"][name]["state"].items() if "mask" in key]
        assert any((mask == 0).any() for mask in masks)
