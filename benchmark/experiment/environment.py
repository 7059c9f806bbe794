"""The device, hardware and software of a run."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from benchmark.errors import UserError
from benchmark.results.parts import Environment
from benchmark.utils.machine import cores


def choose_device(name: str) -> torch.device:
    """Return the device called "auto" (CUDA if available), "cpu" or "cuda".

    Raises:
        UserError: The name is unknown, or CUDA is requested and not available.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Return the model name of the GPU or processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


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
