"""DarkRank: naive loops over lists, the likelihood of an order, and list lengths."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.methods.darkrank import DarkRank, permutation_nll


@pytest.mark.parametrize("form", ["hard", "original"])
@pytest.mark.parametrize("normalize", [False, True])
def test_matches_naive_loops(total, draw, form, normalize):
    student, teacher = draw((6, 3), (6, 4))
    s, t = (x / x.norm(dim=1, keepdim=True) if normalize else x for x in (student, teacher))
    anchors, length = (6, 3) if form == "hard" else (3, 5)
    expected = 0.0
    for a in range(anchors):
        order = sorted((i for i in range(6) if i != a), key=lambda i, a=a: float((t[a] - t[i]).norm()))
        powers = [math.exp(-1.5 * float((s[a] - s[i]).norm()) ** 2.5) for i in order[:length]]
        likelihood = math.prod(powers[i] / sum(powers[i:]) for i in range(length))
        expected -= math.log(likelihood) / anchors
    method = DarkRank(2.0, form, alpha=1.5, beta=2.5, top=3, normalize=normalize)
    assert total(method, embedding=(student, teacher)).item() == pytest.approx(2 * expected, rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(length=st.integers(2, 6), seed=st.integers(0, 99))
def test_likelihoods_of_all_orders_sum_to_one(length, seed):
    scores = torch.randn(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    positions = torch.cartesian_prod(*[torch.arange(length)] * length)
    orders = positions[[len(set(row)) == length for row in positions.tolist()]]
    assert (-permutation_nll(scores[orders])).exp().sum().item() == pytest.approx(1, rel=1e-9)


def test_order_of_teacher_costs_least(draw):
    losses = DarkRank(alpha=20.0).anchor_losses
    teacher = draw((6, 8))[0]
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert (losses(teacher, teacher) <= losses(teacher[order], teacher)).all()


def test_long_list_is_not_saturated(total, draw):
    student, teacher = draw((96, 16), (96, 16))
    loss = total(DarkRank(form="original"), embedding=(student.requires_grad_(), teacher))
    loss.backward()
    assert loss > 100
    assert student.grad.abs().max() > 0.1


def test_list_is_at_most_the_rest_of_the_batch(total, draw):
    outputs = draw((4, 8), (4, 8))
    assert torch.equal(total(DarkRank(top=9), embedding=outputs), total(DarkRank(top=3), embedding=outputs))
