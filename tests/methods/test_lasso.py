"""CDD's lasso: the authors' numbers, its behaviour at zero, and the weight that fits a schedule."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.compression.lasso import auto_lasso, edit_gradients, group_norms, lasso_gradient


def released_schedule(steps_per_epoch: int) -> np.ndarray:
    """0.01, warmed up over 10 epochs from a tenth, constant to epoch 40, cosine to 1e-7 at 120; set once an epoch."""
    rates = []
    for epoch in range(120):
        if epoch < 10:
            rates.append(0.01 * (0.1 + 0.9 * epoch / 10))
        elif epoch < 40:
            rates.append(0.01)
        else:
            rates.append(1e-7 + (0.01 - 1e-7) * (1 + math.cos(math.pi * (epoch - 40) / 80)) / 2)
    return np.repeat(rates, steps_per_epoch)


def steps_to_vanish(rates: np.ndarray, start: int, strength: float, momentum: float, weight_decay: float) -> int:
    """First step, from `start`, after which a row of norm 1 under SGD feels lasso and decay only and is at zero."""
    row = nn.Parameter(torch.full((1, 4), 0.5, dtype=torch.float64))
    optimizer = torch.optim.SGD([row], lr=1.0, momentum=momentum, weight_decay=weight_decay)
    for step in range(start, len(rates)):
        optimizer.param_groups[0]["lr"] = rates[step]
        row.grad = strength * lasso_gradient(row.detach())
        optimizer.step()
        if row[0, 0] <= 0:
            return step + 1
    return len(rates)


def test_equals_the_authors_lasso(golden):
    values = golden("group_lasso")
    for case in values.cases:
        weight = values.inputs(case)["student"].requires_grad_()
        loss = values.meta[case]["hp"]["lasso_lambda"] * group_norms(weight).sum()
        loss.backward()
        values.check(case, loss.detach(), student=weight.grad)
        analytic = values.meta[case]["hp"]["lasso_lambda"] * lasso_gradient(weight.detach())
        assert torch.allclose(analytic, weight.grad, rtol=1e-12, atol=0)


def test_equals_the_authors_rule_for_gradients(golden):
    values = golden("group_lasso")
    weights, masks, expected = [], [], []
    for case in values.cases:
        weight = nn.Parameter(values.inputs(case)["student"])
        weight.grad = torch.from_numpy(values.arrays[f"{case}/rule_grad_in"].copy())
        weights.append(weight)
        masks.append(torch.from_numpy(values.arrays[f"{case}/rule_mask"])[:, 0, 0, 0])
        expected.append(torch.from_numpy(values.arrays[f"{case}/rule_grad_out"].copy()))
    edit_gradients(weights, values.meta[values.cases[0]]["hp"]["lasso_lambda"], masks=masks)
    for weight, mask, reference in zip(weights, masks, expected, strict=True):
        for row in range(len(weight)):
            if reference[row].isnan().any():  # a zero row: NaN there, here what the mask lets through
                assert not weight[row].any()
                assert weight.grad[row].isfinite().all()
                assert mask[row] or not weight.grad[row].any()
            else:
                assert torch.allclose(weight.grad[row], reference[row], rtol=1e-9, atol=1e-12)


def test_without_masks_the_rule_is_the_gradient_of_the_added_loss():
    weight = nn.Parameter(torch.randn(6, 8, 1, 1, generator=torch.Generator().manual_seed(0)))
    target = torch.zeros_like(weight)
    ((weight - target).square().sum() + 0.3 * group_norms(weight).sum()).backward()
    expected, weight.grad = weight.grad, None
    (weight - target).square().sum().backward()
    edit_gradients([weight], 0.3)
    assert torch.allclose(weight.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_and_vanishing_rows_stay_finite(dtype):
    weight = torch.tensor([[0.0, 0.0], [1e-30, 0.0], [1e-13, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    group_norms(weight).sum().backward()
    gradient = lasso_gradient(weight.detach())
    for g in (weight.grad, gradient):
        assert g.isfinite().all()
        assert (g.norm(dim=1) <= 1 + 1e-6).all()
        assert not g[0].any()
        assert torch.allclose(g[3], torch.tensor([0.6, 0.8], dtype=dtype))


@pytest.mark.parametrize("floor", [0.1, torch.tensor(0.1), torch.tensor([0.1, 0.1, 0.1])])
def test_the_floor_weakens_the_pull_near_zero(floor):
    gradient = lasso_gradient(torch.tensor([[0.05, 0.0], [0.0, 0.2], [0.0, 0.0]]).view(3, 2, 1, 1), floor)
    assert torch.allclose(gradient.view(3, 2), torch.tensor([[0.5, 0.0], [0.0, 1.0], [0.0, 0.0]]))


@pytest.mark.parametrize("weight_decay", [0.0, 5e-4, 5e-3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_auto_lasso_against_steps_of_sgd(momentum, weight_decay):
    rates = np.concatenate([np.linspace(0.002, 0.02, 200), np.geomspace(0.02, 1e-4, 1800)])
    start, vanish = 300, 900
    strength = auto_lasso(rates[start:vanish], momentum, weight_decay)
    assert steps_to_vanish(rates, start, strength, momentum, weight_decay) == pytest.approx(vanish, abs=6)


@pytest.mark.parametrize(
    ("images", "strength", "epoch"),
    [(30_248, 0.004, 27), (32_621, 0.004, 27), (12_936, 0.004, 38), (30_248, 0.009, 24), (32_621, 0.009, 23)],
)
def test_auto_lasso_reproduces_the_released_constants(images, strength, epoch):
    """MSMT17 (with and without its validation part) and Market-1501, rows masked after 20 epochs."""
    steps_per_epoch = images // 96
    rates = released_schedule(steps_per_epoch)
    start = 20 * steps_per_epoch
    assert steps_to_vanish(rates, start, strength, 0.9, 5e-4) / steps_per_epoch == pytest.approx(epoch, abs=0.7)
    derived = auto_lasso(rates[start : epoch * steps_per_epoch], 0.9, 5e-4)
    assert derived == pytest.approx(strength, rel=0.2)


def test_auto_lasso_needs_steps_that_move():
    with pytest.raises(ValueError, match="all learning rates are zero"):
        auto_lasso([], 0.9, 0.0)
