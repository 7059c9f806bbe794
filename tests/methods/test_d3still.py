"""D3still: the authors' numbers, loops, what it is blind to, ties, what could break it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.methods.d3still import D3still
from benchmark.model.features import Features

EMPTY = torch.empty(0)


def terms(method: D3still, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    return method.loss(Features(EMPTY, student, EMPTY), Features(EMPTY, teacher, EMPTY), None)


def total(method: D3still, student: Tensor, teacher: Tensor) -> Tensor:
    return sum(terms(method, student, teacher).values())


def test_equals_the_authors_values(golden):
    values = golden("d3still")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        student = inputs["student"].requires_grad_()
        loss = total(D3still(hp["top_k"], hp["alpha"], hp["beta"], hp["gamma"]), student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y) / float(x.norm()) / float(y.norm())


def by_loops(student: Tensor, teacher: Tensor, top_k: int) -> list[float]:
    own_errors, hard, easy = [], [], []
    for s, t in zip(student, teacher, strict=True):
        nearest = sorted(teacher, key=lambda x, t=t: -cosine(t, x))[:top_k]
        theirs, own = [cosine(t, x) for x in nearest], [cosine(s, x) for x in nearest]
        own_errors.append(theirs[0] - own[0])
        sums = {True: 0.0, False: 0.0}
        for m in range(1, len(nearest)):
            for n in range(1, len(nearest)):
                if m != n:
                    dt, ds = theirs[n] - theirs[m], own[n] - own[m]
                    sums[ds / dt > 0] += ((ds - dt) / (0.1 + abs(dt))) ** 2
        hard.append(math.sqrt(sums[False]))
        easy.append(math.sqrt(sums[True]))
    size = len(student)
    feature = math.sqrt(sum(error**2 for error in own_errors)) / size
    return [feature, sum(hard) / size / (top_k - 1), sum(easy) / size / (top_k - 1)]


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(2, 7), width=st.integers(3, 9), top_k=st.integers(2, 9), seed=st.integers(0, 999))
def test_equals_loops_over_pairs_of_neighbours(rows, width, top_k, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))
    loss = terms(D3still(top_k, 2.0, 3.0, 5.0), student, teacher)
    found = [loss[f"d3still_{name}"].item() for name in ("feature", "hard", "easy")]
    feature, hard, easy = by_loops(student, teacher, top_k)
    assert found == pytest.approx([2 * feature, 3 * hard, 5 * easy], rel=1e-9, abs=1e-12)


def test_blind_to_a_common_rotation_to_order_and_scale_but_not_to_a_rotation_of_one(draw):
    student, teacher, square = draw((6, 8), (6, 8), (8, 8))
    rotation, order = torch.linalg.qr(square).Q, torch.tensor([3, 1, 5, 0, 2, 4])
    method = D3still(4)
    expected = total(method, student, teacher)
    for changed in (
        (student @ rotation, teacher @ rotation),
        (student[order], teacher[order]),
        (student * 9, teacher / 9),
    ):
        assert torch.allclose(total(method, *changed), expected, rtol=1e-9)
    assert not torch.allclose(total(method, student @ rotation, teacher), expected, rtol=1e-3)


def test_an_order_turned_round_is_hard_and_a_stretched_one_easy(draw):
    (teacher,) = draw((6, 8))
    turned = terms(D3still(), -teacher, teacher)
    assert turned["d3still_hard"] > 1
    assert turned["d3still_easy"] == 0
    apart = torch.cat([teacher, torch.zeros(6, 1)], dim=1)  # all cosines shrink alike
    away = apart + torch.cat([torch.zeros(6, 8), teacher.norm(dim=1, keepdim=True)], dim=1)
    stretched = terms(D3still(), away, apart)
    assert stretched["d3still_easy"] > 0.1
    assert stretched["d3still_hard"] == 0


def test_a_student_equal_to_its_teacher_costs_nothing(draw):
    (teacher,) = draw((12, 8))
    student = (3 * teacher).requires_grad_()
    loss = total(D3still(), student, teacher)
    loss.backward()
    assert loss.item() < 1e-12
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbours_that_coincide_are_no_pair(draw, dtype):
    """Rounding parts what the student thinks of them; neither set gets them, and no error of about 1."""
    student, teacher = (x.to(dtype) for x in draw((6, 24), (6, 24)))
    teacher[1], teacher[2] = 3 * teacher[0], 0.7 * teacher[0]
    twin = teacher.clone()
    twin[1:3] = teacher[0]
    for name, value in terms(D3still(), student, teacher).items():
        assert torch.allclose(value, terms(D3still(), student, twin)[name], rtol=1e-5)
