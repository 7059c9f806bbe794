"""Symmetric divergence of fast-reid: a naive loop over Jeffreys' divergence."""

import math

import pytest

from benchmark.methods.js import JS


def softmax(row, temperature):
    powers = [math.exp(z / temperature) for z in row]
    return [p / sum(powers) for p in powers]


def test_matches_naive_loop(total, draw):
    student, teacher = draw((3, 4), (3, 4))
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(s, 5.0), softmax(t, 5.0)
        expected += sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))  # both directions
    loss = total(JS(5.0, 3.0), logits=(student, teacher))
    assert loss.item() == pytest.approx(3 * 25 / 2 / 3 * expected, rel=1e-9)
