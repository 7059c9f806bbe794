"""DIST: a naive loop, the correlation, and constant vectors, which have none."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.methods.dist import DIST, correlation


def softmax(row):
    powers = [math.exp(z) for z in row]
    return [p / sum(powers) for p in powers]


def pearson(x, y):
    x, y = ([a - sum(v) / len(v) for a in v] for v in (x, y))
    norms = [math.sqrt(sum(a * a for a in v)) for v in (x, y)]
    return sum(a * b for a, b in zip(x, y, strict=True)) / (norms[0] * norms[1] + 1e-8)


def test_matches_naive_loop(terms, draw):
    student, teacher = draw((4, 5), (4, 5))
    p, q = ([softmax([z / 3 for z in row]) for row in x.tolist()] for x in (student, teacher))
    inter = 1 - sum(pearson(p[b], q[b]) for b in range(4)) / 4
    intra = 1 - sum(pearson([r[c] for r in p], [r[c] for r in q]) for c in range(5)) / 5
    loss = terms(DIST(3.0, 2.0, 5.0), logits=(student, teacher))
    assert loss["dist_inter"].item() == pytest.approx(2 * 9 * inter, rel=1e-9)
    assert loss["dist_intra"].item() == pytest.approx(5 * 9 * intra, rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 5),
    width=st.integers(4, 8),
    scale=st.floats(0.1, 100),
    shift=st.floats(-10, 10),
    seed=st.integers(0, 99),
)
def test_correlation_is_bounded_and_invariant_to_scale_and_shift(rows, width, scale, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = correlation(x, y)
    assert expected.abs().max() <= 1
    assert torch.allclose(correlation(scale * x + shift, y), expected, rtol=0, atol=1e-4)
    assert torch.allclose(correlation(x, -y), -expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_vectors_have_no_correlation_and_no_gradient(terms, dtype):
    row = torch.randn(10, dtype=dtype)
    for student in (row.expand(6, 10), torch.zeros(6, 10, dtype=dtype)):
        student = student.clone().requires_grad_()
        loss = terms(DIST(), logits=(student, torch.randn(6, 10, dtype=dtype)))
        sum(loss.values()).backward()
        assert loss["dist_intra"] == 1
        assert student.grad.abs().max() < 1
    assert not student.grad.any()


def test_classes_without_probability_have_bounded_gradients(total):
    student = (200 * torch.eye(6, 10)).requires_grad_()
    loss = total(DIST(), logits=(student, 200 * torch.eye(6, 10).flip(1)))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.abs().max() < 1
