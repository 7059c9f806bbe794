"""fast-reid's symmetric divergence: its numbers, a loop, and what makes it symmetric."""

import math

import pytest
import torch

from benchmark.losses import kl_divergence
from benchmark.methods.js import JS


@pytest.fixture
def cost(features):
    def compute(method, student, teacher):
        return method.loss(features(logits=student), features(logits=teacher), None)["js"]

    return compute


def softmax(row, temperature):
    powers = [math.exp(z / temperature) for z in row]
    return [p / sum(powers) for p in powers]


def test_equals_the_authors_values(golden, cost):
    values = golden("jsdiv")
    for case in values.cases:
        inputs = values.inputs(case)
        student = inputs["student"].requires_grad_()
        loss = cost(JS(values.meta[case]["hp"]["T"]), student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def test_equals_a_loop(cost, draw):
    student, teacher = draw((3, 4), (3, 4))
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(s, 5.0), softmax(t, 5.0)
        expected += sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))  # Jeffreys: both directions
    assert cost(JS(5.0, 3.0), student, teacher).item() == pytest.approx(3 * 25 / 2 / 3 * expected, rel=1e-9)


def test_symmetric_and_blind_to_a_shift_of_every_image(cost, draw):
    student, teacher = draw((6, 10), (6, 10))
    loss = cost(JS(), student, teacher)
    assert torch.allclose(cost(JS(), teacher, student), loss, rtol=1e-9)
    assert torch.allclose(cost(JS(), student + draw((6, 1))[0], teacher - 3), loss, rtol=1e-9)
    assert not torch.allclose(cost(JS(2.0), teacher, student), kl_divergence(student, teacher, 2.0), rtol=1e-3)


def test_a_student_equal_to_its_teacher_costs_nothing(cost, draw):
    student = draw((6, 10))[0].requires_grad_()
    loss = cost(JS(), student, student.detach() + 2)
    loss.backward()
    assert loss.abs() < 1e-12
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_finite(cost, draw, dtype):
    student, teacher = ((300 * x).to(dtype) for x in draw((8, 64), (8, 64)))
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cost(JS(2.0), student, teacher)
    loss.backward()
    assert student.grad.isfinite().all()
    assert torch.allclose(loss, cost(JS(2.0), student.detach().float(), teacher.float()), rtol=1e-5)


def test_temperature_and_weight_in_a_step(rig):
    assert rig(JS(temperature=4.0, weight=2.0)).step()["loss_js"] > 0
