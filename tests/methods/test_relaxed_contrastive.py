"""Relaxed contrastive loss: the authors' numbers, a loop, what it is blind to, and coincident images."""

import math

import pytest
import torch

from benchmark.methods.relaxed_contrastive import RelaxedContrastive


@pytest.fixture
def cost(features):
    def compute(method, student, teacher):
        return method.loss(features(embedding=student), features(embedding=teacher), None)["relaxed_contrastive"]

    return compute


def test_equals_the_authors_values(golden, cost):
    values = golden("relaxed_contrastive")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        student = inputs["student"].requires_grad_()
        loss = cost(RelaxedContrastive(1.0, hp["sigma"], hp["delta"]), student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def test_equals_loops(cost, draw):
    student, teacher = draw((5, 3), (5, 4))
    s, t = student.tolist(), teacher.tolist()
    t = [[a / math.sqrt(sum(b * b for b in row)) for a in row] for row in t]
    expected = 0.0
    for i in range(5):
        mean = sum(math.dist(s[i], s[k]) for k in range(5)) / 5
        for j in range(5):
            if i != j:
                w, d = math.exp(-(math.dist(t[i], t[j]) ** 2) / 0.7), math.dist(s[i], s[j]) / mean
                expected += (w * d**2 + (1 - w) * max(0, 1.2 - d) ** 2) / 5
    found = cost(RelaxedContrastive(3.0, 0.7, 1.2), student, teacher)
    assert found.item() == pytest.approx(3 * expected, rel=1e-9)


def test_blind_to_what_no_relation_sees(cost, draw):
    student, teacher = draw((6, 8), (6, 10))
    method = RelaxedContrastive()
    loss = cost(method, student, teacher)
    rotation = torch.linalg.qr(draw((8, 8), seed=1)[0]).Q
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    for changed in (
        cost(method, student @ rotation + 3, teacher),
        cost(method, student[order], teacher[order]),
        cost(method, 7 * student, teacher),
        cost(method, student, draw((6, 1), seed=3)[0].exp() * teacher),  # only its directions are read
    ):
        assert torch.allclose(changed, loss, rtol=1e-6)
    assert not torch.allclose(cost(method, student[order], teacher), loss, rtol=1e-3)
    assert not torch.allclose(cost(method, student, teacher + 3), loss, rtol=0.1)


def test_pairs_that_the_teacher_sees_together_attract_and_others_repel(cost):
    student = torch.tensor([[0.0], [1.0], [2.5]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    (gradient,) = torch.autograd.grad(cost(RelaxedContrastive(sigma=0.01), student, teacher), student)
    assert gradient[0] < 0 < gradient[1]  # a step against the gradient brings 0 and 1 together
    apart = torch.eye(3)
    with torch.no_grad():
        rows = [torch.tensor([[0.0], [place], [2.0]]) for place in (0.1, 1.0)]
        crowded, spread = (cost(RelaxedContrastive(sigma=0.01), student, apart) for student in rows)
        assert spread < crowded


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_identical_embeddings_have_finite_gradients(cost, value):
    student = torch.full((6, 4), value, requires_grad=True)
    for teacher in (torch.randn(6, 5), torch.full((6, 5), value)):
        loss = cost(RelaxedContrastive(), student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_finite(cost, draw, dtype):
    student, teacher = ((300 * x).to(dtype) for x in draw((8, 64), (8, 64)))
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cost(RelaxedContrastive(), student, teacher)
        exact = cost(RelaxedContrastive(), student.detach().float(), teacher.float())
    loss.backward()
    assert student.grad.isfinite().all()
    assert torch.allclose(loss, exact, rtol=1e-5)


def test_every_argument_in_a_step(rig):
    assert rig(RelaxedContrastive(weight=0.5, sigma=0.5, delta=0.9)).step()["loss_relaxed_contrastive"] > 0
