"""The device of a run."""

import pytest
import torch

from benchmark.errors import UserError
from benchmark.experiment import environment
from benchmark.experiment.environment import choose_device
from benchmark.utils.launch import Launch


class Devices:
    """A kind of accelerator of which torch finds some."""

    def __init__(self, count: int) -> None:
        self.count = count

    def is_available(self) -> bool:
        return bool(self.count)

    def device_count(self) -> int:
        return self.count


@pytest.fixture
def devices(monkeypatch):
    """`devices(cuda=2)`: torch finds two CUDA devices and no others. `started` is how the process was started."""

    def find(started: Launch = Launch(), **counts: int) -> None:  # noqa: B008
        found = {kind: (Devices(counts.get(kind, 0)), kind) for kind in ("cuda", "xpu", "mps")}
        monkeypatch.setattr(environment, "_ACCELERATORS", found)
        monkeypatch.setattr(torch.cuda, "is_available", found["cuda"][0].is_available)
        monkeypatch.setattr(environment, "launch", lambda: started)

    return find


def test_accepted(devices):
    devices(cuda=2, xpu=1, mps=1)
    for name in ("cpu", "cuda", "cuda:1", "xpu", "xpu:0", "mps"):
        assert choose_device(name) == torch.device(name)
    assert choose_device("auto") == torch.device("cuda")
    devices(xpu=1)
    assert choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "unknown device 'gpu': choose auto, cpu, cuda, cuda:0, xpu or mps"),
        ("cpu:0", "unknown device 'cpu:0'"),
        ("cuda:", "unknown device 'cuda:'"),
        ("cuda:two", "unknown device 'cuda:two'"),
        ("cuda:2", "--device cuda:2: torch finds 2 of these devices; choose cuda:0 to cuda:1"),
        ("mps", "--device mps: torch finds no mps; use --device cpu or auto"),
    ],
)
def test_refused(devices, name, message):
    devices(cuda=2)
    with pytest.raises(UserError) as refused:
        choose_device(name)
    assert str(refused.value).startswith(message)


def test_of_several_processes(devices):
    """Each process has the device of its number."""
    devices(Launch(4, 3, 1, 2), cuda=2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="several processes take one device each; use --device cuda"):
        choose_device("cuda:1")
    devices(Launch(4, 3, 3, 4), cuda=2)
    with pytest.raises(UserError, match="this machine has 2 GPUs; start at most 2 processes per machine"):
        choose_device("cuda")
    devices(Launch(4, 3, 3, 4, own_devices=True), cuda=1)
    assert choose_device("cuda") == torch.device("cuda", 0)
