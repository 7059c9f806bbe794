"""DKD: the authors' numbers, a loop, its relation to KD, the warm-up, and logits that leave nothing to the others."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.batch import Batch
from benchmark.losses import kl_divergence
from benchmark.method import Progress
from benchmark.methods.dkd import DKD, decoupled_divergences


@pytest.fixture
def terms(features):
    def compute(method, student, teacher, labels):
        batch = Batch(None, labels, None, None)
        return method.loss(features(logits=student), features(logits=teacher), batch)

    return compute


def test_equals_the_authors_values(golden, terms):
    values = golden("dkd")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        student = inputs["student"].requires_grad_()
        method = DKD(hp["T"], hp["alpha"], hp["beta"])
        loss = sum(terms(method, student, inputs["teacher"], inputs["target"]).values())
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def softmax(row):
    powers = [math.exp(z) for z in row]
    return [p / sum(powers) for p in powers]


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_equals_a_loop(terms, draw):
    student, teacher = draw((4, 5), (4, 5))
    labels, heat = [3, 0, 4, 0], 2.5
    target = others = 0.0
    for label, *rows in zip(labels, student.tolist(), teacher.tolist(), strict=True):
        s, t = ([z / heat for z in row] for row in rows)
        own = [softmax(row)[label] for row in (t, s)]
        target += heat**2 / 4 * divergence(*[[p, 1 - p] for p in own])
        rest = [softmax(row[:label] + row[label + 1 :]) for row in (t, s)]
        others += heat**2 / 4 * divergence(*rest)
    found = terms(DKD(heat, 3.0, 7.0), student, teacher, torch.tensor(labels))
    assert found["dkd_target"].item() == pytest.approx(3 * target, rel=1e-9)
    assert found["dkd_others"].item() == pytest.approx(7 * others, rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(classes=st.integers(2, 9), scale=st.floats(0.1, 5), heat=st.floats(0.5, 8), seed=st.integers(0, 99))
def test_kd_is_the_case_in_which_an_image_weights_the_others_by_their_share(classes, scale, heat, seed):
    generator = torch.Generator().manual_seed(seed)
    s, t = (scale * torch.randn(1, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    label = torch.randint(classes, (1,), generator=generator)
    target, others = decoupled_divergences(s, t, label, heat)
    share = 1 - torch.softmax(t / heat, dim=1)[0, label]
    assert torch.allclose(target + share * others, kl_divergence(s, t, heat), rtol=1e-8, atol=1e-12)


def test_the_two_terms_look_at_different_things(draw):
    student, teacher = draw((6, 10), (6, 10))
    labels = torch.arange(6)
    target, others = decoupled_divergences(student, teacher, labels, 2.0)
    raised = student + 4 * torch.nn.functional.one_hot(labels, 10)
    changed, same = decoupled_divergences(raised, teacher, labels, 2.0)
    assert torch.allclose(same, others, rtol=1e-12)
    assert not torch.allclose(changed, target, rtol=0.1)
    turned = student.clone()
    turned[:, 6:] = student[:, 6:].flip(1)  # the classes that are nobody's label here
    same, changed = decoupled_divergences(turned, teacher, labels, 2.0)
    assert torch.allclose(same, target, rtol=1e-12)
    assert not torch.allclose(changed, others, rtol=0.01)


def test_a_student_equal_to_its_teacher_costs_nothing(terms, draw):
    student = draw((6, 10))[0].requires_grad_()
    loss = sum(terms(DKD(), student, student.detach() - 1, torch.arange(6)).values())
    loss.backward()
    assert loss.abs() < 1e-12
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_certain_and_undecided_networks_have_finite_gradients(scale):
    student = (scale * torch.eye(6, 10)).requires_grad_()
    for teacher in (scale * torch.eye(6, 10), scale * torch.eye(6, 10).flip(1)):
        loss = sum(decoupled_divergences(student, teacher, torch.arange(6), 1.0))
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert gradient.abs().max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_finite(draw, dtype):
    student, teacher = ((300 * x).to(dtype) for x in draw((8, 64), (8, 64)))
    student.requires_grad_()
    labels = torch.arange(8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = torch.stack(decoupled_divergences(student, teacher, labels, 4.0))
    loss.sum().backward()
    assert student.grad.isfinite().all()
    exact = torch.stack(decoupled_divergences(student.detach().float(), teacher.float(), labels, 4.0))
    assert torch.allclose(loss, exact, rtol=1e-5)


def test_the_warmup_rises_from_the_first_epoch_and_survives_a_kill(terms, draw):
    (student, teacher), labels = draw((6, 10), (6, 10)), torch.arange(6)
    full = sum(terms(DKD(), student, teacher, labels).values())
    method = DKD(warmup=4)
    for epoch, share in enumerate((0.25, 0.5, 0.75, 1.0, 1.0), start=1):
        resumed = DKD(warmup=4)
        resumed.load_state_dict(method.state_dict())
        for running in (method, resumed):
            assert torch.allclose(sum(terms(running, student, teacher, labels).values()), share * full, rtol=1e-6)
        method.after_epoch(None, Progress(epoch, 5, epoch))


def test_the_published_setting_in_a_step(rig):
    made = rig(DKD(**DKD.presets["published"]))
    first = made.step()
    assert first["loss_dkd_target"] > 0
    assert first["loss_dkd_others"] > 0
    made.end_epoch()
    assert made.method.epoch == 2
