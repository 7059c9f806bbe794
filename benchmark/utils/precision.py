"""Choice of the precision of a training, and full float32 precision for parts of a step that uses less."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import Lock
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

DTYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)
"""Precision of a training by the value of `runtime.amp`; `auto` chooses one of them."""


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype:
    """Return the dtype to which convolutions and products of a training are cast; float32 for no autocast.

    Args:
        amp: A key of `DTYPES`, or "auto": bfloat16 if the hardware computes in it natively, else float16 on CUDA
            devices, else float32.
        device: Device of the training.
    """
    if amp != "auto":
        return DTYPES[amp]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() else torch.float32


@contextmanager
def tf32_products() -> Iterator[None]:
    """Let float32 products on CUDA devices use TF32, as convolutions do by default."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def upcast(x: Tensor) -> Tensor:
    """Return `x` in float32; float64 tensors are returned as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Disable autocast and reduced float32 precision (TF32, bfloat16) for products and convolutions.

    Use it for products between features: in bfloat16, they changed the nearest neighbors of half the rows of a batch,
    and the mAP by tenths of a point.
    """
    with ExitStack() as stack:
        stack.enter_context(_FULL_PRECISION)
        if device.type != "meta":  # which has no autocast
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


class _FullPrecision:
    """Global precision settings: the first thread to enter changes them, and the last to leave restores them."""

    def __init__(self) -> None:
        backends: Any = torch.backends  # its attributes are created at run time
        self._backends = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]
        self._before: list[str] = []
        self._threads = 0
        self._lock = Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._threads:
                self._before = [backend.fp32_precision for backend in self._backends]
            self._threads += 1
            for backend in self._backends:
                backend.fp32_precision = "ieee"

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                for backend, precision in zip(self._backends, self._before, strict=True):
                    backend.fp32_precision = precision


_FULL_PRECISION = _FullPrecision()
