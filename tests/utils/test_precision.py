"""The precision of a training, and full float32 precision within a context."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch

from benchmark.utils.precision import autocast_dtype, full_precision, tf32_products, upcast

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


def test_chosen_precision():
    for amp, dtype in {"bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}.items():
        assert autocast_dtype(amp, torch.device("cpu")) == dtype


@pytest.mark.parametrize("fast", [True, False])
def test_automatic_precision(monkeypatch, fast):
    """bfloat16 where it is fast, and half precision on every GPU."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
    assert autocast_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if fast else torch.float32)
    assert autocast_dtype("auto", torch.device("cuda")) == (torch.bfloat16 if fast else torch.float16)
    assert autocast_dtype("auto", torch.device("mps")) == torch.float32


def test_tf32_is_restored():
    before = MATMUL.fp32_precision
    with pytest.raises(KeyError), tf32_products():
        assert MATMUL.fp32_precision == "tf32"
        raise KeyError
    assert MATMUL.fp32_precision == before
    assert not torch.backends.cuda.matmul.allow_tf32  # the older interface works, too
