"""Learning metrics from teachers: the authors' numbers in both modes, loops, and what each sees."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmark.methods.metrics_from_teachers import MetricsFromTeachers

MODES = ("relative", "absolute")


@pytest.fixture
def cost(features):
    def compute(method, student, teacher):
        (loss,) = method.loss(features(embedding=student), features(embedding=teacher), None).values()
        return loss

    return compute


@pytest.mark.parametrize("mode", MODES)
def test_equals_the_authors_values(golden, cost, mode):
    values = golden(f"metric_teacher_{mode}")
    for case in values.cases:
        inputs = values.inputs(case)
        student = inputs["student"].requires_grad_()
        loss = cost(MetricsFromTeachers(mode, 1.0, normalize=False), student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def test_equals_loops(cost, draw):
    def distance(x, y, shift=0.0):
        return math.sqrt(sum((a - b + shift) ** 2 for a, b in zip(x, y, strict=True)))

    student, teacher, wide = draw((5, 3), (5, 3), (5, 4))
    s, t, w = (x.tolist() for x in (student, teacher, wide))
    absolute = sum(distance(a, b, 1e-6) for a, b in zip(s, t, strict=True)) / 5
    found = cost(MetricsFromTeachers("absolute", 3.0, normalize=False), student, teacher)
    assert found.item() == pytest.approx(3 * absolute, rel=1e-9)
    squares = [(distance(s[i], s[j]) - distance(w[i], w[j])) ** 2 for i in range(5) for j in range(5)]
    found = cost(MetricsFromTeachers("relative", 3.0, normalize=False), student, wide)
    assert found.item() == pytest.approx(3 * math.sqrt(sum(squares)), rel=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_normalize_is_normalisation_of_both(cost, draw, mode):
    student, teacher = draw((6, 8), (6, 8))
    expected = cost(MetricsFromTeachers(mode, normalize=False), F.normalize(student), F.normalize(teacher))
    assert torch.allclose(cost(MetricsFromTeachers(mode), student, teacher), expected, rtol=1e-12)
    assert torch.allclose(cost(MetricsFromTeachers(mode), 3 * student, 0.1 * teacher), expected, rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_only_relations_are_blind_to_rotation_and_shift_of_one_side(cost, draw, mode):
    student, teacher = draw((6, 8), (6, 8))
    method = MetricsFromTeachers(mode, normalize=False)
    loss = cost(method, student, teacher)
    rotation = torch.linalg.qr(draw((8, 8), seed=1)[0]).Q
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(cost(method, student[order], teacher[order]), loss, rtol=1e-9)
    assert torch.allclose(cost(method, student @ rotation + 1, teacher), loss, rtol=1e-9) == (mode == "relative")
    assert not torch.allclose(cost(method, 3 * student, teacher), loss, rtol=0.1)


def test_what_each_mode_asks_for():
    assert MetricsFromTeachers("absolute").aligned
    assert MetricsFromTeachers("absolute").needs.equal_embeddings
    assert not MetricsFromTeachers("relative").aligned
    assert not MetricsFromTeachers("relative").needs.equal_embeddings


def test_a_student_equal_to_its_teacher_costs_nothing_but_the_constant(cost, draw):
    student = draw((6, 8))[0].requires_grad_()
    relative = cost(MetricsFromTeachers("relative"), student, student.detach())
    relative.backward()
    assert relative == 0
    assert not student.grad.any()
    absolute = cost(MetricsFromTeachers("absolute", 1.0), student, student.detach())
    assert absolute.item() == pytest.approx(1e-6 * math.sqrt(8), rel=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_identical_embeddings_have_finite_gradients(cost, mode, normalize, value):
    student = torch.full((6, 4), value, requires_grad=True)
    for teacher in (torch.randn(6, 4), torch.full((6, 4), value)):
        loss = cost(MetricsFromTeachers(mode, 1.0, normalize), student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        assert gradient.abs().max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mode", MODES)
def test_short_floats_and_autocast_stay_finite(cost, draw, mode, dtype):
    student, teacher = ((300 * x).to(dtype) for x in draw((8, 64), (8, 64)))
    student.requires_grad_()
    method = MetricsFromTeachers(mode, normalize=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cost(method, student, teacher)
    loss.backward()
    assert student.grad.isfinite().all()
    assert torch.allclose(loss, cost(method, student.detach().float(), teacher.float()), rtol=1e-5)


@pytest.mark.parametrize("preset", MetricsFromTeachers.presets)
def test_presets_in_a_step(rig, preset):
    arguments = MetricsFromTeachers.presets[preset]
    losses = rig(MetricsFromTeachers(**arguments)).step()
    assert losses[f"loss_metrics_from_teachers_{arguments['mode']}"] > 0
