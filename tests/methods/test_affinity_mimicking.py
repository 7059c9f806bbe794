"""Affinity mimicking: naive loops over two sides, and over the batch against itself."""

import math

import pytest
import torch

from benchmark.losses import l2_normalize
from benchmark.methods.affinity_mimicking import AffinityMimicking, affinity_cross_entropy


def naive(student, teacher, student_scale, teacher_scale):
    total, count = 0.0, len(student[0])
    for sides in ((0, 1), (1, 0)):
        for i in range(count):
            powers = [
                [math.exp(scale * float(rows[sides[0]][i] @ row)) for row in rows[sides[1]]]
                for rows, scale in ((student, student_scale), (teacher, teacher_scale))
            ]
            q, p = ([power / sum(side) for power in side] for side in powers)
            total -= sum(a * math.log(b) for a, b in zip(p, q, strict=True)) / count / 2
    return total


def test_matches_naive_loops_over_two_sides(draw):
    student, teacher = draw((4, 3), (4, 3)), draw((4, 5), (4, 5), seed=1)
    loss = affinity_cross_entropy(student, teacher, 0.5, 2.0)
    assert loss.item() == pytest.approx(naive(student, teacher, 0.5, 2.0), rel=1e-9)


def test_compares_the_batch_with_itself(total, draw):
    outputs = draw((4, 3), (4, 5))
    loss = total(AffinityMimicking(4.0, 8.0, weight=3.0), embedding=outputs)
    s, t = (l2_normalize(x) for x in outputs)
    assert loss.item() == pytest.approx(3 * naive((s, s), (t, t), 4.0, 8.0), rel=1e-9)


def test_is_least_for_the_teacher_and_has_no_gradient_there(total, draw):
    (teacher,) = draw((6, 8))
    student = (3 * teacher).requires_grad_()
    least = total(AffinityMimicking(5.0, 5.0), embedding=(student, teacher))
    least.backward()
    assert student.grad.abs().max() < 1e-12
    assert least > 0
    for other in draw((6, 8), (6, 8), seed=2):
        assert total(AffinityMimicking(5.0, 5.0), embedding=(teacher + 0.1 * other, teacher)) > least
    assert torch.isfinite(total(AffinityMimicking(), embedding=(0 * teacher, 0 * teacher)))
