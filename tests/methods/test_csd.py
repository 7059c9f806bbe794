"""CSD: the authors' numbers, loops, what it is blind to, what could break it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.methods.csd import CSD
from benchmark.model.features import Features

EMPTY = torch.empty(0)


def total(method: CSD, student: Tensor, teacher: Tensor) -> Tensor:
    return method.loss(Features(EMPTY, student, EMPTY), Features(EMPTY, teacher, EMPTY), None)["csd"]


def test_equals_the_reimplementations_values(golden):
    values = golden("csd")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        student = inputs["student"].requires_grad_()
        loss = total(CSD(hp["top_k"], hp["tau_student"], hp["tau_teacher"], 1.0), student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y) / float(x.norm()) / float(y.norm())


def by_loops(student: Tensor, teacher: Tensor, top_k: int, own: float, theirs: float) -> float:
    whole = 0.0
    for s, t in zip(student, teacher, strict=True):
        nearest = sorted(teacher, key=lambda x, t=t: -cosine(t, x))[:top_k]
        p = [math.exp((cosine(t, x) - 1) / theirs) for x in nearest]
        q = [math.exp((cosine(s, x) - 1) / own) for x in nearest]
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        whole += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)
    return whole / len(student)


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(2, 7), width=st.integers(2, 9), top_k=st.integers(2, 9), seed=st.integers(0, 999))
def test_equals_loops_over_neighbours(rows, width, top_k, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, width, generator=generator).double() for _ in range(2))
    loss = total(CSD(top_k, 0.7, 0.2, 3.0), student, teacher)
    assert loss.item() == pytest.approx(3 * by_loops(student, teacher, top_k, 0.7, 0.2), rel=1e-9)


def test_blind_to_a_common_rotation_to_order_and_scale_but_not_to_a_rotation_of_one(draw):
    student, teacher, square = draw((6, 8), (6, 8), (8, 8))
    rotation, order = torch.linalg.qr(square).Q, torch.tensor([3, 1, 5, 0, 2, 4])
    method = CSD(4)
    expected = total(method, student, teacher)
    for changed in (
        (student @ rotation, teacher @ rotation),
        (student[order], teacher[order]),
        (student * 9, teacher / 9),
    ):
        assert torch.allclose(total(method, *changed), expected, rtol=1e-9)
    assert not torch.allclose(total(method, student @ rotation, teacher), expected, rtol=1e-3)


def test_an_equal_student_costs_nothing_at_equal_temperatures_only(draw):
    (teacher,) = draw((6, 8))
    student = (3 * teacher).requires_grad_()
    loss = total(CSD(student_temperature=0.1, teacher_temperature=0.1), student, teacher)
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert student.grad.abs().max() < 1e-12
    assert total(CSD(), student, teacher) > 1
