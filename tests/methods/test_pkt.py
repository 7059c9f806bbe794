"""PKT: the authors' numbers, a loop, what cosines are blind to, and rows without a direction."""

import math

import pytest
import torch

from benchmark.methods.pkt import PKT, batch_probabilities


@pytest.fixture
def cost(features):
    def compute(method, student, teacher):
        return method.loss(features(embedding=student), features(embedding=teacher), None)["pkt"]

    return compute


def test_equals_the_authors_values(golden, cost):
    values = golden("pkt")
    for case in values.cases:
        inputs = values.inputs(case)
        student = inputs["student"].requires_grad_()
        loss = cost(PKT(weight=1.0), student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def test_equals_loops(cost, draw):
    rows = 5
    found = []
    for x in (features.tolist() for features in draw((rows, 3), (rows, 4))):
        lengths = [math.sqrt(sum(a * a for a in row)) + 1e-7 for row in x]
        kernel = [
            [
                (sum(a * b for a, b in zip(x[i], x[j], strict=True)) / lengths[i] / lengths[j] + 1) / 2
                for j in range(rows)
            ]
            for i in range(rows)
        ]
        found.append([[k / sum(row) for k in row] for row in kernel])
    s, t = found
    expected = 0.0
    for i in range(rows):
        for j in range(rows):
            expected += t[i][j] * math.log((t[i][j] + 1e-7) / (s[i][j] + 1e-7)) / rows**2
    assert cost(PKT(weight=7.0), *draw((rows, 3), (rows, 4))).item() == pytest.approx(7 * expected, rel=1e-9)


def test_blind_to_rotation_to_the_order_of_the_batch_and_to_every_rows_scale(cost, draw):
    student, teacher = draw((6, 8), (6, 10))
    loss = cost(PKT(), student, teacher)
    rotation = torch.linalg.qr(draw((8, 8), seed=1)[0]).Q
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    lengths = draw((6, 1), seed=3)[0].exp()
    for changed in (
        cost(PKT(), student @ rotation, teacher),
        cost(PKT(), student[order], teacher[order]),
        cost(PKT(), lengths * student, teacher / lengths),
    ):
        assert torch.allclose(changed, loss, rtol=1e-4)  # up to the constants
    assert not torch.allclose(cost(PKT(), student + 3, teacher), loss, rtol=0.1)
    assert not torch.allclose(cost(PKT(), student[order], teacher), loss, rtol=0.1)


def test_a_student_equal_to_its_teacher_costs_nothing(cost, draw):
    student = draw((6, 8))[0].requires_grad_()
    loss = cost(PKT(weight=1.0), student, student.detach())
    loss.backward()
    assert loss == 0
    assert student.grad.abs().max() < 1e-7  # of the constants


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_identical_embeddings_have_small_gradients(cost, value):
    student = torch.full((6, 4), value, requires_grad=True)
    loss = cost(PKT(weight=1.0), student, torch.randn(6, 5))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1


def test_zero_and_opposite_rows_have_finite_gradients(cost):
    row = torch.randn(1, 512)
    student = torch.cat([row, -row, -3 * row, torch.zeros_like(row)]).requires_grad_()
    loss = cost(PKT(), student, torch.randn(4, 5))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert not student.grad[3].any()


def test_every_row_is_a_distribution(draw):
    found = batch_probabilities(draw((6, 8))[0])
    assert torch.allclose(found.sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert (found >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_finite(cost, draw, dtype):
    student, teacher = ((300 * x).to(dtype) for x in draw((8, 64), (8, 64)))
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cost(PKT(), student, teacher)
        exact = cost(PKT(), student.detach().float(), teacher.float())
    loss.backward()
    assert student.grad.isfinite().all()
    assert torch.allclose(loss, exact, rtol=1e-4)
