"""Contextual similarity distillation: naive loops, and the effect of unequal temperatures."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.methods.csd import CSD


def cosine(x, y):
    return float(x @ y) / float(x.norm()) / float(y.norm())


def naive(student, teacher, top_k, tau_s, tau_t):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        nearest = sorted(teacher, key=lambda x, t=t: -cosine(t, x))[:top_k]
        p = [math.exp((cosine(t, x) - 1) / tau_t) for x in nearest]
        q = [math.exp((cosine(s, x) - 1) / tau_s) for x in nearest]
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)
    return total / len(student)


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(2, 7), width=st.integers(2, 9), top_k=st.integers(2, 9), seed=st.integers(0, 999))
def test_matches_naive_loops(total, rows, width, top_k, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, width, generator=generator).double() for _ in range(2))
    loss = total(CSD(top_k, 0.7, 0.2, 3.0), embedding=(student, teacher))
    assert loss.item() == pytest.approx(3 * naive(student, teacher, top_k, 0.7, 0.2), rel=1e-9)


def test_equal_student_is_not_optimal_at_unequal_temperatures(total, draw):
    (teacher,) = draw((6, 8))
    assert total(CSD(), embedding=(3 * teacher, teacher)) > 1
