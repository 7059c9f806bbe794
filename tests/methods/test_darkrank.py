"""DarkRank: the numbers of both codes, loops over lists, what a ranking is blind to, and coincident images."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.methods.darkrank import DarkRank, permutation_nll


@pytest.fixture
def cost(features):
    def compute(method, student, teacher):
        return method.loss(features(embedding=student), features(embedding=teacher), None)["darkrank"]

    return compute


def test_equals_the_authors_values(golden, cost):
    values = golden("darkrank_hard")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        student = inputs["student"].requires_grad_()
        method = DarkRank(1.0, "hard", hp["alpha"], hp["beta"], hp["permute_len"], normalize=False)
        loss = cost(method, student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def test_original_equals_the_authors_values_but_for_their_saturation(golden):
    values = golden("darkrank_original")
    slopes = 0
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        method = DarkRank(1.0, "original", hp["scale"] ** hp["power"], 2 * hp["power"], normalize=False)
        student = inputs["student"].requires_grad_()
        costs = method.anchor_losses(student, inputs["teacher"])
        values.check(case, -((-costs.detach()).exp() + 1e-12).log().mean())
        if f"{case}/grad_full" not in values.arrays.files:  # a list so long that theirs is saturated
            assert costs.mean() > 27.64
            continue
        slopes += 1
        (gradient,) = torch.autograd.grad(costs.mean(), student)
        reference = values.arrays[f"{case}/grad_full"]
        tolerance = values.meta[case]["rtol_grad_full"] * np.abs(reference).max()
        assert np.abs(gradient.numpy() - reference).max() <= tolerance
    assert slopes == 8


@pytest.mark.parametrize("form", ["hard", "original"])
@pytest.mark.parametrize("normalize", [False, True])
def test_equals_loops_over_lists(cost, draw, form, normalize):
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
    assert cost(method, student, teacher).item() == pytest.approx(2 * expected, rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(length=st.integers(2, 6), seed=st.integers(0, 99))
def test_the_likelihoods_of_all_orders_sum_to_one(length, seed):
    scores = torch.randn(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    places = torch.cartesian_prod(*[torch.arange(length)] * length)
    orders = places[[len(set(row)) == length for row in places.tolist()]]
    assert (-permutation_nll(scores[orders])).exp().sum().item() == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("form", ["hard", "original"])
def test_sees_only_the_teachers_order(cost, draw, form):
    student, teacher = draw((7, 8), (7, 8))
    method = DarkRank(form=form, normalize=False)
    loss = cost(method, student, teacher)
    rotation = torch.linalg.qr(draw((8, 8), seed=1)[0]).Q
    for changed in (
        cost(method, student @ rotation + 3, teacher),
        cost(method, student, 7 * teacher + 1),  # no ranking changes
    ):
        assert torch.allclose(changed, loss, rtol=1e-9)
    assert not torch.allclose(cost(method, 2 * student, teacher), loss, rtol=0.1)
    assert torch.allclose(cost(DarkRank(form=form), 2 * student, teacher), cost(DarkRank(form=form), student, teacher))


def test_only_the_original_depends_on_who_comes_first(cost, draw):
    student, teacher = draw((6, 8), (6, 8))
    order = torch.arange(6).roll(3)
    for form, alike in (("hard", True), ("original", False)):
        changed = cost(DarkRank(form=form), student[order], teacher[order])
        assert torch.allclose(changed, cost(DarkRank(form=form), student, teacher), rtol=1e-9) == alike


def test_the_teachers_order_costs_least(draw):
    costs = DarkRank(alpha=20.0).anchor_losses
    teacher = draw((6, 8))[0]
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    assert (costs(teacher, teacher) <= costs(teacher[order], teacher)).all()


@pytest.mark.parametrize("form", ["hard", "original"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_identical_embeddings_have_finite_gradients(cost, form, normalize, value):
    student = torch.full((6, 4), value, requires_grad=True)
    loss = cost(DarkRank(form=form, normalize=normalize), student, torch.randn(6, 5))
    loss.backward()
    assert loss.isfinite()
    assert not student.grad.any()


def test_a_long_list_is_not_saturated(cost, draw):
    student, teacher = draw((96, 16), (96, 16))
    student.requires_grad_()
    loss = cost(DarkRank(form="original"), student, teacher)
    loss.backward()
    assert loss > 100
    assert student.grad.abs().max() > 0.1


def test_a_batch_smaller_than_the_list(cost, draw):
    student, teacher = draw((4, 8), (4, 8))
    assert torch.equal(cost(DarkRank(top=9), student, teacher), cost(DarkRank(top=3), student, teacher))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_finite(cost, draw, dtype):
    student, teacher = ((300 * x).to(dtype) for x in draw((8, 64), (8, 64)))
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cost(DarkRank(), student, teacher)
        exact = cost(DarkRank(), student.detach().float(), teacher.float())
    loss.backward()
    assert student.grad.isfinite().all()
    assert torch.allclose(loss, exact, rtol=1e-5)


@pytest.mark.parametrize("preset", DarkRank.presets)
def test_presets_in_a_step(rig, preset):
    assert rig(DarkRank(**DarkRank.presets[preset])).step()["loss_darkrank"] > 0
