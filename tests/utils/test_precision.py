"""Full precision inside, the caller's settings restored after."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch

from benchmark.utils.precision import full_precision, upcast


def test_products_are_float32_inside_and_settings_come_back():
    a = torch.randn(8, 8)
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    outside = conv.fp32_precision
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with full_precision(a.device):
                assert (a @ a).dtype == torch.float32
                assert matmul.fp32_precision == conv.fp32_precision == "ieee"
            assert (a @ a).dtype == torch.bfloat16
            with pytest.raises(KeyError), full_precision(a.device):
                raise KeyError
            assert (matmul.fp32_precision, conv.fp32_precision) == ("tf32", outside)
    finally:
        matmul.fp32_precision = before


def test_of_several_threads_the_last_to_leave_brings_the_settings_back():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    entered, left = Event(), Event()

    def other() -> None:
        with full_precision(torch.device("cpu")):
            entered.set()
            left.wait(30)
            assert matmul.fp32_precision == "ieee"

    try:
        with ThreadPoolExecutor(1) as pool:
            with full_precision(torch.device("cpu")):
                running = pool.submit(other)
                assert entered.wait(30)
            assert matmul.fp32_precision == "ieee"
            left.set()
            running.result()
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_only_short_floats_are_copied():
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(2, dtype=dtype)
        assert upcast(x) is x
    for dtype in (torch.float16, torch.bfloat16):
        assert upcast(torch.ones(2, dtype=dtype)).dtype == torch.float32
