"""DIST: the authors' numbers, a loop, what correlation is blind to, and vectors without one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.methods.dist import DIST, correlation


@pytest.fixture
def terms(features):
    def compute(method, student, teacher):
        return method.loss(features(logits=student), features(logits=teacher), None)

    return compute


def test_equals_the_authors_values(golden, terms):
    values = golden("dist")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        student = inputs["student"].requires_grad_()
        loss = sum(terms(DIST(hp["tau"], hp["beta"], hp["gamma"]), student, inputs["teacher"]).values())
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def softmax(row):
    powers = [math.exp(z) for z in row]
    return [p / sum(powers) for p in powers]


def pearson(x, y):
    x, y = ([a - sum(v) / len(v) for a in v] for v in (x, y))
    norms = [math.sqrt(sum(a * a for a in v)) for v in (x, y)]
    return sum(a * b for a, b in zip(x, y, strict=True)) / (norms[0] * norms[1] + 1e-8)


def test_equals_a_loop(terms, draw):
    student, teacher = draw((4, 5), (4, 5))
    p, q = ([softmax([z / 3 for z in row]) for row in x.tolist()] for x in (student, teacher))
    inter = 1 - sum(pearson(p[b], q[b]) for b in range(4)) / 4
    intra = 1 - sum(pearson([r[c] for r in p], [r[c] for r in q]) for c in range(5)) / 5
    found = terms(DIST(3.0, 2.0, 5.0), student, teacher)
    assert found["dist_inter"].item() == pytest.approx(2 * 9 * inter, rel=1e-9)
    assert found["dist_intra"].item() == pytest.approx(5 * 9 * intra, rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 5),
    width=st.integers(4, 8),
    scale=st.floats(0.1, 100),
    shift=st.floats(-10, 10),
    seed=st.integers(0, 99),
)
def test_correlation_is_within_one_and_blind_to_scale_and_shift(rows, width, scale, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))
    found = correlation(x, y)
    assert found.abs().max() <= 1
    assert torch.allclose(correlation(scale * x + shift, y), found, rtol=0, atol=1e-4)
    assert torch.allclose(correlation(x, -y), -found)


def test_blind_to_the_order_of_images_and_classes_if_both_follow(terms, draw):
    student, teacher = draw((6, 10), (6, 10))
    loss = terms(DIST(), student, teacher)
    rows, classes = (torch.randperm(n, generator=torch.Generator().manual_seed(1)) for n in (6, 10))
    for a, b in ((student[rows], teacher[rows]), (student[:, classes], teacher[:, classes])):
        changed = terms(DIST(), a, b)
        assert all(torch.allclose(changed[name], loss[name], rtol=1e-9) for name in loss)
    assert not torch.allclose(terms(DIST(), student[rows], teacher)["dist_inter"], loss["dist_inter"])


def test_a_student_equal_to_its_teacher_costs_the_constant_only(terms, draw):
    student = draw((6, 10))[0].requires_grad_()
    loss = sum(terms(DIST(), student, student.detach()).values())
    loss.backward()
    assert 0 <= loss < 1e-5
    assert student.grad.abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_vectors_have_no_correlation_and_no_gradient(terms, dtype):
    row = torch.randn(10, dtype=dtype)
    for student in (row.expand(6, 10), torch.zeros(6, 10, dtype=dtype)):
        student = student.clone().requires_grad_()
        found = terms(DIST(), student, torch.randn(6, 10, dtype=dtype))
        sum(found.values()).backward()
        assert found["dist_intra"] == 1
        assert student.grad.abs().max() < 1
    assert not student.grad.any()


def test_classes_that_nobody_sees_have_finite_gradients(terms):
    student = (200 * torch.eye(6, 10)).requires_grad_()
    loss = sum(terms(DIST(), student, 200 * torch.eye(6, 10).flip(1)).values())
    loss.backward()
    assert loss.isfinite()
    assert student.grad.abs().max() < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_finite(terms, draw, dtype):
    student, teacher = ((3 * x).to(dtype) for x in draw((8, 64), (8, 64)))
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sum(terms(DIST(), student, teacher).values())
    loss.backward()
    assert student.grad.isfinite().all()
    assert torch.allclose(loss, sum(terms(DIST(), student.detach().float(), teacher.float()).values()), rtol=1e-5)


def test_every_argument_in_a_step(rig):
    losses = rig(DIST(temperature=4.0, inter_weight=0.0, intra_weight=2.0)).step()
    assert losses["loss_dist_inter"] == 0
    assert losses["loss_dist_intra"] > 0
