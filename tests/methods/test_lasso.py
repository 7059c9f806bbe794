"""The group lasso on compactors: the authors' values, rows near zero, and the weight that fits a schedule."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.compression.lasso import auto_lasso, edit_gradients, group_norms, lasso_gradient


class TestGolden:
    def test_lasso(self, golden):
        values = golden("group_lasso")
        for case in values.cases:
            weight = values.inputs(case)["student"].requires_grad_()
            loss = values.meta[case]["hp"]["lasso_lambda"] * group_norms(weight).sum()
            loss.backward()
            values.check(case, loss.detach(), student=weight.grad)
            analytic = values.meta[case]["hp"]["lasso_lambda"] * lasso_gradient(weight.detach())
            assert torch.allclose(analytic, weight.grad, rtol=1e-12, atol=0)

    def test_gradient_edit(self, golden):
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
                if reference[row].isnan().any():  # a zero row: NaN in the authors' code, masked gradient here
                    assert not weight[row].any()
                    assert weight.grad[row].isfinite().all()
                    assert mask[row] or not weight.grad[row].any()
                else:
                    assert torch.allclose(weight.grad[row], reference[row], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dim", [0, 1])
def test_group_norms_equal_a_loop(dim):
    weight = torch.randn(3, 4, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    groups = weight.detach()[:, :, 0, 0].movedim(dim, 0).tolist()
    expected = sum(sum(x**2 for x in group) ** 0.5 for group in groups)
    value = group_norms(weight, dim).sum()
    assert value.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(value, weight)
    assert torch.allclose(lasso_gradient(weight.detach(), dim=dim), gradient, rtol=1e-12)


def test_edited_gradient_without_masks_is_that_of_the_loss_with_the_lasso():
    weight = nn.Parameter(torch.randn(6, 8, 1, 1, generator=torch.Generator().manual_seed(0)))
    (weight.square().sum() + 0.3 * group_norms(weight).sum()).backward()
    expected, weight.grad = weight.grad, None
    weight.square().sum().backward()
    edit_gradients([weight], 0.3)
    assert torch.allclose(weight.grad, expected)


def test_masks_of_columns_and_rows():
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(4, 3, 1, 1, generator=generator)) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    edit_gradients(weights, 0.3, masks=[torch.tensor([1.0, 0, 1]), torch.tensor([0.0, 1, 1, 1])], dims=[1, 0])
    for weight, dim, masked in zip(weights, (1, 0), (1, 0), strict=True):
        lasso = 0.3 * weight.detach() / weight.detach().norm(dim=1 - dim, keepdim=True)
        expected = 1 + lasso
        expected.movedim(dim, 0)[masked] = lasso.movedim(dim, 0)[masked]
        assert torch.allclose(weight.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_near_zero_have_finite_gradients(dtype):
    weight = torch.tensor([[0.0, 0.0], [1e-30, 0.0], [1e-13, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    group_norms(weight).sum().backward()
    for gradient in (weight.grad, lasso_gradient(weight.detach())):
        assert gradient.isfinite().all()
        assert (gradient.norm(dim=1) <= 1 + 1e-6).all()
        assert not gradient[0].any()
        assert torch.allclose(gradient[3], torch.tensor([0.6, 0.8], dtype=dtype))


def test_gradient_below_the_floor_is_proportional_to_the_row():
    gradient = lasso_gradient(torch.tensor([[0.05, 0.0], [0.0, 0.2], [0.0, 0.0]]).view(3, 2, 1, 1), 0.1)
    assert torch.allclose(gradient.view(3, 2), torch.tensor([[0.5, 0.0], [0.0, 1.0], [0.0, 0.0]]))


def released_schedule(steps_per_epoch: int) -> np.ndarray:
    """CDD's schedule, updated once per epoch: 10 epochs of warm-up to 0.01, constant to 40, cosine to 1e-7 at 120."""
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
    """Number of the step at which SGD has moved a row from norm 1 to zero, by lasso and weight decay from `start`."""
    row = nn.Parameter(torch.full((1, 4), 0.5, dtype=torch.float64))
    optimizer = torch.optim.SGD([row], lr=1.0, momentum=momentum, weight_decay=weight_decay)
    for step in range(start, len(rates)):
        optimizer.param_groups[0]["lr"] = rates[step]
        row.grad = strength * lasso_gradient(row.detach())
        optimizer.step()
        if row[0, 0] <= 0:
            return step + 1
    return len(rates)


class TestAuto:
    @pytest.mark.parametrize("weight_decay", [0.0, 5e-4, 5e-3])
    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    def test_against_steps_of_sgd(self, momentum, weight_decay):
        rates = np.concatenate([np.linspace(0.002, 0.02, 200), np.geomspace(0.02, 1e-4, 1800)])
        start, vanish = 300, 900
        strength = auto_lasso(rates[start:vanish], momentum, weight_decay)
        assert steps_to_vanish(rates, start, strength, momentum, weight_decay) == pytest.approx(vanish, abs=6)

    @pytest.mark.parametrize(
        ("images", "strength", "epoch"),
        [(30_248, 0.004, 27), (32_621, 0.004, 27), (12_936, 0.004, 38), (30_248, 0.009, 24), (32_621, 0.009, 23)],
    )
    def test_reproduces_the_constants_of_cdd(self, images, strength, epoch):
        """MSMT17 (with and without its validation part) and Market-1501, rows masked after 20 epochs."""
        steps_per_epoch = images // 96
        rates = released_schedule(steps_per_epoch)
        start = 20 * steps_per_epoch
        assert steps_to_vanish(rates, start, strength, 0.9, 5e-4) / steps_per_epoch == pytest.approx(epoch, abs=0.7)
        assert auto_lasso(rates[start : epoch * steps_per_epoch], 0.9, 5e-4) == pytest.approx(strength, rel=0.2)

    def test_reproduces_the_constant_of_deap(self):
        """VeRi-776 with CDD's schedule: 393 steps per epoch, 10 epochs of warm-up, vanished at 0.14 of 90 epochs."""
        rates = np.repeat([0.01 * min(1, 0.1 + 0.09 * epoch) for epoch in range(90)], 393)
        assert auto_lasso(rates[: round(0.14 * len(rates))], 0.9, 5e-4) == pytest.approx(0.003, rel=0.1)

    @pytest.mark.parametrize("rates", [[], [0.0, 0.0]])
    def test_needs_a_learning_rate(self, rates):
        with pytest.raises(ValueError, match="all learning rates are zero"):
            auto_lasso(rates, 0.9, 0.0)
