"""Pooling of two feature maps to a common size."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.losses import match_size

sides = st.integers(1, 9)


@settings(deadline=None, max_examples=25)
@given(student=st.tuples(sides, sides), teacher=st.tuples(sides, sides))
def test_entries_are_means_of_cells(student, teacher):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, c, *size, generator=generator).double() for c, size in ((3, student), (5, teacher))]
    size = tuple(min(pair) for pair in zip(student, teacher, strict=True))
    for before, after in zip(maps, match_size(*maps), strict=True):
        assert after.shape == (*before.shape[:2], *size)
        (height, width), (h, w) = before.shape[2:], size
        for i in range(h):
            for j in range(w):
                rows = slice(i * height // h, math.ceil((i + 1) * height / h))
                columns = slice(j * width // w, math.ceil((j + 1) * width / w))
                torch.testing.assert_close(after[:, :, i, j], before[:, :, rows, columns].mean(dim=(2, 3)))


def test_maps_of_equal_size_are_returned():
    maps = torch.randn(2, 3, 4, 5), torch.randn(2, 6, 4, 5)
    assert all(after is before for before, after in zip(maps, match_size(*maps), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_float32(dtype):
    large = torch.full((1, 1, 64, 64), 3e4, dtype=dtype)
    large[..., ::2] = 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled, other = match_size(large, torch.ones(1, 1, 1, 1, dtype=dtype))
    assert pooled.dtype == other.dtype == torch.float32
    assert pooled.item() == pytest.approx((large[0, 0, 0, 1].item() + 1) / 2, rel=1e-6)
