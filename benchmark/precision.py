"""Arithmetic that stays in full float32 while the rest of a step may run in bf16 or TF32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself in float32 or float64; a float32 copy of anything shorter."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32 and no bf16 in place of float32, in products and convolutions, for what is computed inside.

    Relations between features survive neither: a bf16 product was seen to change the nearest neighbours of half the
    rows of a batch, and to move mAP by tenths of a point.
    """
    found: Any = torch.backends  # whose parts are made at run time
    backends = [found.cuda.matmul, found.cudnn.conv, found.mkldnn.matmul, found.mkldnn.conv]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
