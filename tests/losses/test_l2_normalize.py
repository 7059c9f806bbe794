"""L2 normalization, also of zero rows."""

import pytest
import torch

from benchmark.losses import l2_normalize


def test_equals_a_loop():
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    for row, unit in zip(features.tolist(), l2_normalize(features).tolist(), strict=True):
        norm = sum(x * x for x in row) ** 0.5
        assert unit == pytest.approx([x / norm for x in row], rel=1e-12)


def test_zero_rows_remain_and_have_no_gradient():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit = l2_normalize(features)
    assert torch.equal(unit[0], torch.zeros(2))
    assert torch.allclose(unit[1], torch.tensor([0.6, 0.8]))
    unit.sum().backward()
    assert not features.grad[0].any()
    assert features.grad[1].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    unit = l2_normalize(torch.full((2, 64), 3e4, dtype=dtype))
    assert unit.dtype == torch.float32
    assert torch.allclose(unit, torch.full((2, 64), 0.125))
