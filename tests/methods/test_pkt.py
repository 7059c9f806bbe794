"""PKT: a naive loop, the distributions, and rows without a direction or opposite to each other."""

import math

import pytest
import torch

from benchmark.methods.pkt import PKT, batch_probabilities


def naive_probabilities(rows):
    lengths = [math.sqrt(sum(a * a for a in row)) + 1e-7 for row in rows]
    count = len(rows)
    kernel = [
        [
            (sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) / lengths[i] / lengths[j] + 1) / 2
            for j in range(count)
        ]
        for i in range(count)
    ]
    return [[k / sum(row) for k in row] for row in kernel]


def test_matches_naive_loop(total, draw):
    outputs = draw((5, 3), (5, 4))
    s, t = (naive_probabilities(x.tolist()) for x in outputs)
    expected = 0.0
    for i in range(5):
        for j in range(5):
            expected += t[i][j] * math.log((t[i][j] + 1e-7) / (s[i][j] + 1e-7)) / 5**2
    assert total(PKT(weight=7.0), embedding=outputs).item() == pytest.approx(7 * expected, rel=1e-9)


def test_zero_and_opposite_rows_have_finite_gradients(total):
    row = torch.randn(1, 512)
    student = torch.cat([row, -row, -3 * row, torch.zeros_like(row)]).requires_grad_()
    loss = total(PKT(), embedding=(student, torch.randn(4, 5)))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert not student.grad[3].any()


def test_rows_are_distributions(draw):
    """Also where rounding makes the cosine of opposite rows less than -1."""
    rows = draw((64, 512))[0].float()
    probabilities = batch_probabilities(torch.cat([rows, -rows]))
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(128))
    assert (probabilities >= 0).all()
