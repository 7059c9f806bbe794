"""Full float32 precision within a context."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch

from benchmark.utils.precision import full_precision, upcast, uses_bfloat16

MATMUL, CONV = torch.backends.cuda.matmul, torch.backends.cudnn.conv


@pytest.fixture
def tf32():
    before = MATMUL.fp32_precision
    MATMUL.fp32_precision = "tf32"
    yield
    MATMUL.fp32_precision = before


def test_products_are_float32_within_the_context(tf32):
    a = torch.randn(8, 8)
    convolution = CONV.fp32_precision
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision(a.device):
            assert (a @ a).dtype == torch.float32
            assert MATMUL.fp32_precision == CONV.fp32_precision == "ieee"
        assert (a @ a).dtype == torch.bfloat16
        with pytest.raises(KeyError), full_precision(a.device):
            raise KeyError
        assert (MATMUL.fp32_precision, CONV.fp32_precision) == ("tf32", convolution)


def test_the_last_thread_restores_the_settings(tf32):
    entered, leave = Event(), Event()

    def other() -> None:
        with full_precision(torch.device("cpu")):
            entered.set()
            leave.wait(30)
            assert MATMUL.fp32_precision == "ieee"

    with ThreadPoolExecutor(1) as pool:
        with full_precision(torch.device("cpu")):
            running = pool.submit(other)
            assert entered.wait(30)
        assert MATMUL.fp32_precision == "ieee"
        leave.set()
        running.result()
    assert MATMUL.fp32_precision == "tf32"


def test_upcast():
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(2, dtype=dtype)
        assert upcast(x) is x
    for dtype in (torch.float16, torch.bfloat16):
        assert upcast(torch.ones(2, dtype=dtype)).dtype == torch.float32


def test_bfloat16_is_automatic_where_it_is_fast(monkeypatch):
    cpu = torch.device("cpu")
    assert uses_bfloat16("bf16", cpu)
    assert not uses_bfloat16("off", cpu)
    for fast in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        assert uses_bfloat16("auto", cpu) == fast
