"""Where a run happened."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import mmengine
import torch

from benchmark.errors import UserError
from benchmark.results.record import Environment


def choose_device(name: str) -> torch.device:
    """`auto` is a CUDA device where there is one, else the CPU.

    Raises:
        UserError: The name is unknown, or CUDA was asked for and is not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; use --device cpu, or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The model of the accelerator or processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def environment(device: torch.device, bfloat16: bool) -> Environment:
    """Versions, hardware and the training's precision, as a record keeps them."""
    packages = {name: version(name) for name in ("torch", "torchvision", "timm", "numpy")}
    return Environment(
        python=platform.python_version(),
        **packages,
        mmengine=mmengine.__version__,  # mmengine or mmengine-lite: the same modules, other dependencies
        platform=platform.platform(),
        device=device_name(device),
        threads=torch.get_num_threads(),
        precision="bfloat16" if bfloat16 else "float32",
    )


def use_threads(threads: int | None) -> None:
    """Let the CPU's operators use so many threads; every core where None."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(threads or cores or 1)


def _processor() -> str:
    """The processor's name, which Python's platform module does not know on Linux."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
