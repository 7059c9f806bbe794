"""Variational information distillation: a naive loop over entries, and the learned variance."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmark import Embedder
from benchmark.methods.vid import VID, GaussianRegressor


def prepared(method, inputs, outputs):
    networks = (Embedder("resnet18", args={"channels": [width] * 4}) for width in (inputs, outputs))
    method.prepare(*networks, None)
    return method.double()


def test_matches_naive_loop(total, draw):
    student, teacher, scales = draw((2, 3, 2, 2), (2, 4, 2, 2), (4,))
    method = prepared(VID(3.0, (2,)), 3, 4)
    (regressor,) = method.guesses
    regressor.log_scale.data = scales
    expected = 0.0
    for b in range(2):
        for i in range(2):
            for j in range(2):
                values = student[b, :, i, j].tolist()
                for layer in (0, 2, 4):
                    weight = regressor.mean[layer].weight[:, :, 0, 0].tolist()
                    values = [sum(w * v for w, v in zip(row, values, strict=True)) for row in weight]
                    values = values if layer == 4 else [max(value, 0.0) for value in values]
                for c, mean in enumerate(values):
                    variance = math.log(1 + math.exp(scales[c].item())) + 1e-5
                    expected += 0.5 * ((mean - teacher[b, c, i, j].item()) ** 2 / variance + math.log(variance))
    loss = total(method, stage2=(student, teacher))
    assert loss.item() == pytest.approx(3 * expected / (2 * 4 * 2 * 2), rel=1e-9)


@pytest.mark.parametrize("variance", [2e-5, 5.0, 1e4])
def test_initial_variance(variance):
    regressor = GaussianRegressor(3, 4, variance)
    assert torch.allclose(F.softplus(regressor.log_scale) + 1e-5, torch.tensor(variance), rtol=1e-5)


def test_optimal_variance_is_the_mean_squared_error_of_each_channel(draw):
    student, teacher = draw((6, 3, 4, 4), (6, 2, 4, 4))
    teacher = teacher * torch.tensor([0.5, 3.0]).view(2, 1, 1)
    regressor = GaussianRegressor(3, 2, 5.0).double()
    errors = (regressor.mean(student) - teacher).square().mean(dim=(0, 2, 3)).detach()
    regressor.log_scale.data = torch.log(torch.expm1(errors - 1e-5))
    least = regressor(student, teacher)
    (gradient,) = torch.autograd.grad(least, regressor.log_scale)
    assert gradient.abs().max() < 1e-9
    assert least.item() == pytest.approx((0.5 + 0.5 * errors.log()).mean().item(), rel=1e-9)


def test_invariant_to_order_of_images_and_positions_but_not_of_channels(total, draw):
    student, teacher = draw((4, 5, 3, 4), (4, 5, 3, 4))
    method = prepared(VID(stages=(2,)), 5, 5)
    expected = total(method, stage2=(student, teacher))
    for axes, invariant in ((0,), True), ((2, 3), True), ((1,), False):
        changed = total(method, stage2=(student.flip(axes), teacher.flip(axes)))
        assert torch.allclose(changed, expected, rtol=1e-9 if invariant else 1e-6) == invariant


@pytest.mark.parametrize("scale", [-200.0, -20.0, 200.0])
def test_extreme_variances_and_zero_maps_have_finite_gradients(scale):
    regressor = GaussianRegressor(3, 4, 5.0)
    regressor.log_scale.data.fill_(scale)
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = regressor(student, torch.randn(2, 4, 4, 4))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in regressor.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_close_to_float32(total, dtype):
    student, teacher = ((30 * torch.randn(4, 5, 6, 4)).to(dtype) for _ in range(2))
    method = prepared(VID(stages=(2,)), 5, 5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(method, stage2=(student.requires_grad_(), teacher))
    loss.backward()
    exact = total(method, stage2=(student.detach().float(), teacher.float()))
    assert torch.allclose(loss, exact, rtol=1e-2)
    assert student.grad.isfinite().all()


def test_stages_add_up_and_larger_maps_are_pooled(total, draw):
    small, large = draw((2, 3, 4, 2), (2, 4, 8, 6))
    method = prepared(VID(1.0, (1, 4)), 3, 4)
    pooled = large.view(2, 4, 4, 2, 2, 3).mean(dim=(3, 5))
    loss = total(method, stage1=(small, large), stage4=(small, pooled))
    assert torch.allclose(loss, sum(regressor(small, pooled) for regressor in method.guesses), rtol=1e-9)
