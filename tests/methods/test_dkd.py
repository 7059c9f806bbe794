"""DKD: a naive loop, its relation to KD, its two terms, certain networks, and the warm-up."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import Progress
from benchmark.losses import kl_divergence
from benchmark.methods.dkd import DKD, decoupled_divergences


def softmax(row):
    powers = [math.exp(z) for z in row]
    return [p / sum(powers) for p in powers]


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_matches_naive_loop(terms, draw):
    student, teacher = draw((4, 5), (4, 5))
    labels, temperature = [3, 0, 4, 0], 2.5
    target = others = 0.0
    for label, *rows in zip(labels, student.tolist(), teacher.tolist(), strict=True):
        s, t = ([z / temperature for z in row] for row in rows)
        probabilities = [softmax(row)[label] for row in (t, s)]
        target += temperature**2 / 4 * divergence(*[[p, 1 - p] for p in probabilities])
        rest = [softmax(row[:label] + row[label + 1 :]) for row in (t, s)]
        others += temperature**2 / 4 * divergence(*rest)
    loss = terms(DKD(temperature, 3.0, 7.0), labels=torch.tensor(labels), logits=(student, teacher))
    assert loss["dkd_target"].item() == pytest.approx(3 * target, rel=1e-9)
    assert loss["dkd_others"].item() == pytest.approx(7 * others, rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(classes=st.integers(2, 9), scale=st.floats(0.1, 5), temperature=st.floats(0.5, 8), seed=st.integers(0, 99))
def test_kd_weights_the_other_classes_by_their_probability(classes, scale, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    s, t = (scale * torch.randn(1, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    label = torch.randint(classes, (1,), generator=generator)
    target, others = decoupled_divergences(s, t, label, temperature)
    rest = 1 - torch.softmax(t / temperature, dim=1)[0, label]
    assert torch.allclose(target + rest * others, kl_divergence(s, t, temperature), rtol=1e-8, atol=1e-12)


def test_terms_depend_on_label_and_on_other_classes_only(draw):
    student, teacher = draw((6, 10), (6, 10))
    labels = torch.arange(6)
    target, others = decoupled_divergences(student, teacher, labels, 2.0)
    new_target, same_others = decoupled_divergences(student + 4 * F.one_hot(labels, 10), teacher, labels, 2.0)
    assert torch.allclose(same_others, others, rtol=1e-12)
    assert not torch.allclose(new_target, target, rtol=0.1)
    permuted = student.clone()
    permuted[:, 6:] = student[:, 6:].flip(1)  # classes that no image of the batch has
    same_target, new_others = decoupled_divergences(permuted, teacher, labels, 2.0)
    assert torch.allclose(same_target, target, rtol=1e-12)
    assert not torch.allclose(new_others, others, rtol=0.01)


@pytest.mark.parametrize("scale", [0.0, 1e4], ids=["undecided", "certain"])
def test_extreme_logits_have_bounded_gradients(scale):
    student = (scale * torch.eye(6, 10)).requires_grad_()
    for teacher in (scale * torch.eye(6, 10), scale * torch.eye(6, 10).flip(1)):
        loss = sum(decoupled_divergences(student, teacher, torch.arange(6), 1.0))
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert gradient.abs().max() <= 1


def test_warmup_rises_from_the_first_epoch_and_survives_a_restart(total, draw):
    given = {"logits": draw((6, 10), (6, 10)), "labels": torch.arange(6)}
    full = total(DKD(), **given)
    method = DKD(warmup=4)
    for epoch, factor in enumerate((0.25, 0.5, 0.75, 1.0, 1.0), start=1):
        resumed = DKD(warmup=4)
        resumed.load_state_dict(method.state_dict())
        for running in (method, resumed):
            assert torch.allclose(total(running, **given), factor * full, rtol=1e-6)
        method.after_epoch(None, Progress(epoch, 5, epoch))
