"""Learning metrics from teachers: naive loops in both modes, normalization, and what the modes require."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmark.methods.metrics_from_teachers import MetricsFromTeachers


def test_matches_naive_loops(total, draw):
    def distance(x, y, shift=0.0):
        return math.sqrt(sum((a - b + shift) ** 2 for a, b in zip(x, y, strict=True)))

    student, teacher, wide = draw((5, 3), (5, 3), (5, 4))
    s, t, w = (x.tolist() for x in (student, teacher, wide))
    absolute = sum(distance(a, b, 1e-6) for a, b in zip(s, t, strict=True)) / 5
    loss = total(MetricsFromTeachers("absolute", 3.0, normalize=False), embedding=(student, teacher))
    assert loss.item() == pytest.approx(3 * absolute, rel=1e-9)
    squares = [(distance(s[i], s[j]) - distance(w[i], w[j])) ** 2 for i in range(5) for j in range(5)]
    loss = total(MetricsFromTeachers("relative", 3.0, normalize=False), embedding=(student, wide))
    assert loss.item() == pytest.approx(3 * math.sqrt(sum(squares)), rel=1e-9)


@pytest.mark.parametrize("mode", ["relative", "absolute"])
def test_normalize_applies_to_both_networks(total, draw, mode):
    student, teacher = draw((6, 8), (6, 8))
    unit = F.normalize(student), F.normalize(teacher)
    expected = total(MetricsFromTeachers(mode, normalize=False), embedding=unit)
    assert torch.allclose(total(MetricsFromTeachers(mode), embedding=(student, teacher)), expected, rtol=1e-12)


@pytest.mark.parametrize(("mode", "aligned"), [("relative", False), ("absolute", True)])
def test_only_absolute_mode_aligns_spaces_of_equal_size(mode, aligned):
    assert MetricsFromTeachers(mode).aligned == MetricsFromTeachers(mode).needs.equal_embeddings == aligned


def test_equal_student_costs_the_constant_in_absolute_mode(total, draw):
    (teacher,) = draw((6, 8))
    loss = total(MetricsFromTeachers("absolute", 1.0), embedding=(teacher, teacher))
    assert loss.item() == pytest.approx(1e-6 * math.sqrt(8), rel=1e-6)
