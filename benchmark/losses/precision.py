"""Arithmetic that stays in full float32 while the rest of a step may run in bf16 or TF32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself in float32 or float64; a float32 copy of anything shorter."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast and no TF32 (on a CPU: no bf16 products) for what is computed inside.

    Relations between features survive neither: a bf16 product was seen to change the nearest neighbours of half the
    rows of a batch.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
