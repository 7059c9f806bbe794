"""Neuron selectivity transfer: a naive loop over pairs of channels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.methods.nst import squared_mmd


def naive(student, teacher):
    def kernel(x, y):
        product = sum(a * b for a, b in zip(x, y, strict=True))
        return (product / sum(a * a for a in x) ** 0.5 / sum(b * b for b in y) ** 0.5) ** 2

    def mean(first, second):
        return sum(kernel(x, y) for x in first for y in second) / len(first) / len(second)

    total = 0.0
    for s, t in zip(student.flatten(2).tolist(), teacher.flatten(2).tolist(), strict=True):
        total += mean(s, s) + mean(t, t) - 2 * mean(s, t)
    return total / len(student)


@settings(deadline=None, max_examples=25)
@given(
    channels=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_matches_naive_loop_with_more_and_fewer_channels_than_positions(channels, size):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, c, *size, generator=generator).double() for c in channels)
    assert squared_mmd(student, teacher).item() == pytest.approx(naive(student, teacher), rel=1e-9, abs=1e-12)
