"""Arithmetic that stays in full float32 while the rest of a step may run in bf16 or TF32."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """`x` itself in float32 or float64; a float32 copy of anything shorter."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32 and no bf16 in place of float32, in products and convolutions, for what is computed inside.

    Relations between features survive neither: a bf16 product was seen to change the nearest neighbours of half the
    rows of a batch, and to move mAP by tenths of a point.
    """
    with _FULL, torch.autocast(device.type, enabled=False):
        yield


class _FullPrecision:
    """The settings are the process's: the first of several threads to come makes them, the last to leave undoes it."""

    def __init__(self) -> None:
        found: Any = torch.backends  # whose parts are made at run time
        self._backends = [found.cuda.matmul, found.cudnn.conv, found.mkldnn.matmul, found.mkldnn.conv]
        self._before: list[str] = []
        self._inside = 0
        self._lock = Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = [backend.fp32_precision for backend in self._backends]
            self._inside += 1
            for backend in self._backends:
                backend.fp32_precision = "ieee"

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for backend, precision in zip(self._backends, self._before, strict=True):
                    backend.fp32_precision = precision


_FULL = _FullPrecision()
