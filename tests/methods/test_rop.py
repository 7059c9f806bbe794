"""ROP: the authors' numbers, loops, what it is blind to, what could break it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.methods.rop import ROP
from benchmark.model.features import Features

EMPTY = torch.empty(0)


def total(method: ROP, student: Tensor, teacher: Tensor) -> Tensor:
    return method.loss(Features(EMPTY, student, EMPTY), Features(EMPTY, teacher, EMPTY), None)["rop"]


def test_equals_the_reimplementations_values(golden):
    values = golden("rop")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        student = inputs["student"].requires_grad_()
        loss = total(ROP(hp["top_k"], hp["tau"], hp["rank_weight"], 1.0), student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y) / float(x.norm()) / float(y.norm())


def by_loops(student: Tensor, teacher: Tensor, top_k: int, tau: float, rank_weight: float) -> float:
    top_k = min(top_k, len(teacher))
    whole = 0.0
    for s, t in zip(student, teacher, strict=True):
        nearest = sorted(teacher, key=lambda x, t=t: -cosine(t, x))[:top_k]
        theirs, own = [cosine(t, x) for x in nearest], [cosine(s, x) for x in nearest]
        shares = [math.exp(rank_weight * x) for x in theirs]
        for m in range(top_k):
            weight = (m + 1) * shares[m] / sum(shares)
            for n in range(top_k):
                step = 0.5 if m == n else float(theirs[n] > theirs[m])
                whole += weight * (step - 1 / (1 + math.exp(-(own[n] - theirs[m]) / tau))) ** 2
    return whole / len(student) / top_k


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(2, 7), width=st.integers(3, 9), top_k=st.integers(2, 9), seed=st.integers(0, 999))
def test_equals_loops_over_pairs_of_neighbours(rows, width, top_k, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))
    cosines = torch.cosine_similarity(teacher[:, None], teacher[None], dim=2).sort().values
    if cosines.diff().min() < 1e-4:  # so near that the teacher's comparison is no step
        return
    loss = total(ROP(top_k, 0.3, 0.5, 3.0), student, teacher)
    assert loss.item() == pytest.approx(3 * by_loops(student, teacher, top_k, 0.3, 0.5), rel=1e-9)


def test_blind_to_a_common_rotation_to_order_and_scale_but_not_to_a_rotation_of_one(draw):
    student, teacher, square = draw((6, 8), (6, 8), (8, 8))
    rotation, order = torch.linalg.qr(square).Q, torch.tensor([3, 1, 5, 0, 2, 4])
    method = ROP(4)
    expected = total(method, student, teacher)
    for changed in (
        (student @ rotation, teacher @ rotation),
        (student[order], teacher[order]),
        (student * 9, teacher / 9),
    ):
        assert torch.allclose(total(method, *changed), expected, rtol=1e-9)
    assert not torch.allclose(total(method, student @ rotation, teacher), expected, rtol=1e-3)


def test_similarities_are_pulled_together_not_their_order_alone(draw):
    """A student whose neighbours are in the teacher's order but all further away costs more than an equal one."""
    (teacher,) = draw((6, 8))
    method = ROP(temperature=0.01)
    apart = torch.cat([teacher, torch.zeros(6, 1)], dim=1)
    equal = total(method, apart, apart)
    away = apart + torch.cat([torch.zeros(6, 8), 3 * teacher.norm(dim=1, keepdim=True)], dim=1)
    assert total(method, away, apart) > 2 * equal
    assert equal < 0.2 * total(method, -apart, apart)
