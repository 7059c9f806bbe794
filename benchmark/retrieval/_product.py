"""The matrix product of queries and gallery, at the precision asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmark.utils.precision import full_precision

Precision = Literal["float32", "tf32", "bf16", "fp16"]
_OFFERED: dict[str, tuple[Precision, ...]] = {"cpu": ("float32", "bf16"), "cuda": ("float32", "tf32", "bf16", "fp16")}


def product(queries: Tensor, gallery: Tensor, precision: Precision = "float32") -> Tensor:
    """(Q, D) and (G, D) float32 -> their (Q, G) inner products, summed and returned in float32.

    Raises:
        ValueError: The device has no products of this precision.
    """
    device = queries.device
    backends: Any = torch.backends  # whose parts are made at run time
    offered = _OFFERED.get(device.type, ("float32",))
    if precision not in offered:
        raise ValueError(f"products on {device.type} are in {', '.join(offered)}; not in {precision!r}")
    with full_precision(device):
        if precision == "float32":
            return _float32(queries, gallery)
        if precision == "tf32":
            with _instead_of_float32(backends.cuda.matmul, "tf32"):
                return torch.mm(queries, gallery.T)
        if device.type == "cpu":
            with _instead_of_float32(backends.mkldnn.matmul, "bf16"):
                return torch.mm(queries, gallery.T)
        short = torch.bfloat16 if precision == "bf16" else torch.float16
        return torch.mm(queries.to(short), gallery.to(short).T, out_dtype=torch.float32)


def empty(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows, columns) float32 of any content.

    On the CPU it is NumPy's, which asks for huge pages where it takes much: giving 40 MB out by small ones was seen to
    take a fifth of the time of the product of 512 dimensions that fills them.
    """
    if device.type == "cpu":
        return torch.from_numpy(np.empty((rows, columns), dtype=np.float32))
    return torch.empty(rows, columns, device=device)


def _float32(queries: Tensor, gallery: Tensor) -> Tensor:
    """By the library that is faster on this processor.

    On AMD processors, oneDNN takes some 0.6 of the time of MKL, which torch.mm uses; torch offers oneDNN's product of
    float32 by an operator for compiled models.
    """
    if queries.device.type == "cpu" and _slow_mkl():
        return torch.ops.mkldnn._linear_pointwise(queries, gallery, None, "none", [], "")
    return torch.mm(queries, gallery.T, out=empty(len(queries), len(gallery), queries.device))


@cache
def _slow_mkl() -> bool:
    """Decided by the processor's maker and not by a stopwatch, so that a result does not depend on a moment's load."""
    try:
        amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")[:2000]
    except OSError:
        return False
    offered = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return amd and torch.backends.mkl.is_available() and offered


@contextmanager
def _instead_of_float32(backend: Any, precision: str) -> Iterator[None]:
    before = backend.fp32_precision
    backend.fp32_precision = precision
    try:
        yield
    finally:
        backend.fp32_precision = before
