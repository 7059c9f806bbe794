"""The device, hardware and software of a run."""

import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from benchmark.errors import UserError
from benchmark.results.parts import Environment
from benchmark.utils.launch import launch
from benchmark.utils.machine import cores

_ACCELERATORS: Final[Mapping[str, tuple[Any, str]]] = {
    "cuda": (torch.cuda, "CUDA device"),
    "xpu": (torch.xpu, "Intel GPU"),
    "mps": (torch.mps, "Apple GPU"),
}
"""The module of torch and the name of each kind of accelerator."""


def choose_device(name: str) -> torch.device:
    """Return the device of this process.

    Args:
        name: "auto" (CUDA if available), "cpu", "mps", or "cuda" or "xpu" with or without a number, as in "cuda:1". Of
            several processes that share a command, each gets the CUDA device of its number on the machine.

    Raises:
        UserError: The name is unknown, or torch finds no such device.
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", *_ACCELERATORS) or (":" in name and not re.fullmatch(r"(cuda|xpu):\d{1,3}", name)):
        raise UserError(f"unknown device {name!r}: choose auto, cpu, cuda, cuda:0, xpu or mps")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        return torch.device(kind)
    module, title = _ACCELERATORS[kind]
    count = module.device_count() if module.is_available() else 0
    if not count:
        raise UserError(f"--device {name}: torch finds no {title}; use --device cpu or auto")
    if number and int(number) >= count:
        raise UserError(f"--device {name}: torch finds {count} of these devices; choose {kind}:0 to {kind}:{count - 1}")
    started = launch()
    if started.processes == 1 or kind != "cuda":
        return torch.device(name if number else kind)
    if number:
        raise UserError(f"--device {name}: several processes take one device each; use --device cuda")
    if count == 1 and started.own_devices:
        return torch.device("cuda", 0)
    if started.local_rank >= count:
        raise UserError(
            f"local process {started.local_rank}: this machine has {count} GPUs; start at most {count} processes "
            "per machine, or use --device cpu"
        )
    return torch.device("cuda", started.local_rank)


def device_name(device: torch.device) -> str:
    """Return the model name of the GPU or processor."""
    if device.type in ("cuda", "xpu"):
        return str(_ACCELERATORS[device.type][0].get_device_name(device))
    return _processor()


def environment(device: torch.device, precision: torch.dtype) -> Environment:
    """Return software versions, hardware and precision for a record.

    Args:
        device: Device of the training.
        precision: The training's `autocast_dtype`.
    """
    import benchmark.engine  # noqa: F401, I001  # makes the import of mmengine safe
    import mmengine

    packages = {name: version(name) for name in ("torch", "torchvision", "timm", "numpy")}
    return Environment(
        python=platform.python_version(),
        **packages,
        mmengine=mmengine.__version__,  # installed as mmengine or mmengine-lite, which differ in their dependencies
        platform=platform.platform(),
        device=device_name(device),
        threads=torch.get_num_threads(),
        processes=launch().processes,
        precision=str(precision).removeprefix("torch."),
    )


def use_threads(threads: int | None) -> None:
    """Set the number of threads of torch's CPU operators; one per available core if None."""
    torch.set_num_threads(threads or cores())


def _processor() -> str:
    # On Linux, Python's platform module does not return the model name.
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
