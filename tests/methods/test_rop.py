"""ROP: naive loops, and the student's similarities, which are matched as well as their order."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.methods.rop import ROP


def cosine(x, y):
    return float(x @ y) / float(x.norm()) / float(y.norm())


def naive(student, teacher, top_k, tau, rank_weight):
    top_k = min(top_k, len(teacher))
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        nearest = sorted(teacher, key=lambda x, t=t: -cosine(t, x))[:top_k]
        t_cosines, s_cosines = [cosine(t, x) for x in nearest], [cosine(s, x) for x in nearest]
        shares = [math.exp(rank_weight * x) for x in t_cosines]
        for m in range(top_k):
            weight = (m + 1) * shares[m] / sum(shares)
            for n in range(top_k):
                step = 0.5 if m == n else float(t_cosines[n] > t_cosines[m])
                total += weight * (step - 1 / (1 + math.exp(-(s_cosines[n] - t_cosines[m]) / tau))) ** 2
    return total / len(student) / top_k


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(2, 7), width=st.integers(3, 9), top_k=st.integers(2, 9), seed=st.integers(0, 999))
def test_matches_naive_loops(total, rows, width, top_k, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))
    cosines = torch.cosine_similarity(teacher[:, None], teacher[None], dim=2).sort().values
    if cosines.diff().min() < 1e-4:  # so close that the teacher's indicator is not a step
        return
    loss = total(ROP(top_k, 0.3, 0.5, 3.0), embedding=(student, teacher))
    assert loss.item() == pytest.approx(3 * naive(student, teacher, top_k, 0.3, 0.5), rel=1e-9)


def test_matches_similarities_and_not_only_their_order(total, draw):
    """A student with the teacher's order, but smaller similarities, costs more than an equal one."""
    (teacher,) = draw((6, 8))
    method = ROP(temperature=0.01)
    wide = torch.cat([teacher, torch.zeros(6, 1)], dim=1)
    away = wide + torch.cat([torch.zeros(6, 8), 3 * teacher.norm(dim=1, keepdim=True)], dim=1)
    equal = total(method, embedding=(wide, wide))
    assert total(method, embedding=(away, wide)) > 2 * equal
    assert equal < 0.2 * total(method, embedding=(-wide, wide))
