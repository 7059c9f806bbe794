"""Pairwise distances: values, gradients of identical rows, precision."""

import pytest
import torch

from benchmark.losses import pairwise_distance


def test_equals_a_loop():
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    distances = pairwise_distance(features)
    for i in range(5):
        for j in range(5):
            squared = sum((a - b) ** 2 for a, b in zip(features[i].tolist(), features[j].tolist(), strict=True))
            assert distances[i, j].item() == pytest.approx(max(squared, 1e-12) ** 0.5, rel=1e-12)


def test_identical_rows_have_no_gradient():
    features = torch.ones(4, 3, requires_grad=True)
    pairwise_distance(features).sum().backward()
    assert not features.grad.any()


def test_small_distance_far_from_the_origin():
    features = torch.tensor([[1000.0, 0.0], [1000.0, 0.0625]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pairwise_distance(features)[0, 1].item() == 0.0625


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    assert pairwise_distance(torch.tensor([[3e4], [-3e4]], dtype=dtype)).isfinite().all()
