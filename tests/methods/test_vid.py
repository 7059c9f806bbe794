"""Variational information distillation: the authors' numbers, a loop over entries, what the variance learns."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmark.methods.vid import VID, GaussianRegressor
from benchmark.model.embedder import Embedder


def prepared(method: VID, inputs: int, outputs: int) -> VID:
    networks = (Embedder("resnet18", args={"channels": [width] * 4}) for width in (inputs, outputs))
    method.prepare(*networks, None)
    return method.double()


def cost(features, method: VID, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return method.loss(features(taps={"stage2": student}), features(taps={"stage2": teacher}), None)["vid"]


def test_equals_the_authors_values(golden, features):
    values = golden("vid")
    for case in values.cases:
        inputs = values.inputs(case)
        student = inputs["student"].requires_grad_()
        method = prepared(VID(1.0, (2,), values.meta[case]["hp"]["init_pred_var"]), 5, 8)
        (guess,) = method.guesses
        if case == "init":
            torch.testing.assert_close(guess.log_scale.detach(), inputs["log_scale"], rtol=1e-6, atol=0)
        learnt = {"w1": guess.mean[0].weight, "w2": guess.mean[2].weight, "w3": guess.mean[4].weight}
        learnt["log_scale"] = guess.log_scale
        for name, parameter in learnt.items():
            assert parameter.shape == inputs[name].shape
            parameter.data = inputs[name]
        loss = cost(features, method, student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad, **{name: p.grad for name, p in learnt.items()})


def test_equals_a_loop(features, draw):
    student, teacher, scales = draw((2, 3, 2, 2), (2, 4, 2, 2), (4,))
    method = prepared(VID(3.0, (2,)), 3, 4)
    (guess,) = method.guesses
    guess.log_scale.data = scales
    total = 0.0
    for b in range(2):
        for i in range(2):
            for j in range(2):
                values = student[b, :, i, j].tolist()
                for layer in (0, 2, 4):
                    weight = guess.mean[layer].weight[:, :, 0, 0].tolist()
                    values = [sum(w * v for w, v in zip(row, values, strict=True)) for row in weight]
                    values = values if layer == 4 else [max(value, 0.0) for value in values]
                for c, mean in enumerate(values):
                    variance = math.log(1 + math.exp(scales[c].item())) + 1e-5
                    total += 0.5 * ((mean - teacher[b, c, i, j].item()) ** 2 / variance + math.log(variance))
    assert cost(features, method, student, teacher).item() == pytest.approx(3 * total / (2 * 4 * 2 * 2), rel=1e-9)


def test_the_best_variance_is_the_mean_squared_error_of_each_channel(draw):
    student, teacher = draw((6, 3, 4, 4), (6, 2, 4, 4))
    teacher = teacher * torch.tensor([0.5, 3.0]).view(2, 1, 1)
    guess = GaussianRegressor(3, 2, 5.0).double()
    errors = (guess.mean(student) - teacher).square().mean(dim=(0, 2, 3)).detach()
    guess.log_scale.data = torch.log(torch.expm1(errors - 1e-5))
    least = guess(student, teacher)
    (gradient,) = torch.autograd.grad(least, guess.log_scale)
    assert gradient.abs().max() < 1e-9
    assert least.item() == pytest.approx((0.5 + 0.5 * errors.log()).mean().item(), rel=1e-9)


def test_blind_to_the_order_of_images_and_positions_but_not_of_channels(features, draw):
    student, teacher = draw((4, 5, 3, 4), (4, 5, 3, 4))
    method = prepared(VID(stages=(2,)), 5, 5)
    expected = cost(features, method, student, teacher)
    assert torch.allclose(cost(features, method, student.flip(0), teacher.flip(0)), expected, rtol=1e-9)
    assert torch.allclose(cost(features, method, student.flip(2, 3), teacher.flip(2, 3)), expected, rtol=1e-9)
    assert not torch.allclose(cost(features, method, student.flip(1), teacher.flip(1)), expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [-200.0, -20.0, 200.0])
def test_extreme_variances_and_zero_maps_stay_finite(scale):
    guess = GaussianRegressor(3, 4, 5.0)
    guess.log_scale.data.fill_(scale)
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = guess(student, torch.randn(2, 4, 4, 4))
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in guess.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_near(features, dtype):
    student, teacher = ((30 * torch.randn(4, 5, 6, 4)).to(dtype).requires_grad_() for _ in range(2))
    method = prepared(VID(stages=(2,)), 5, 5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cost(features, method, student, teacher.detach())
    loss.backward()
    exact = cost(features, method, student.detach().float(), teacher.detach().float())
    assert torch.allclose(loss, exact, rtol=1e-2)
    assert student.grad.isfinite().all()


def test_stages_of_other_widths_and_sizes_add_up(features, draw):
    small, large = draw((2, 3, 4, 2), (2, 4, 8, 6))
    method = prepared(VID(1.0, (1, 4), variance=2.0), 3, 4)
    for guess in method.guesses:
        assert torch.allclose(F.softplus(guess.log_scale), torch.tensor(2.0).double(), rtol=1e-5)
    averaged = large.view(2, 4, 4, 2, 2, 3).mean(dim=(3, 5))
    terms = method.loss(
        features(taps={"stage1": small, "stage4": small}), features(taps={"stage1": large, "stage4": averaged}), None
    )
    parts = sum(guess(small, averaged) for guess in method.guesses)
    assert torch.allclose(terms["vid"], parts, rtol=1e-9)


def test_mean_and_variance_learn_in_training(rig):
    method = VID(stages=(2, 3))
    made = rig(method)
    before = [parameter.clone() for parameter in method.parameters()]
    made.step()
    assert len(before) == 2 * 4
    assert all(not torch.equal(old, new) for old, new in zip(before, method.parameters(), strict=True))
