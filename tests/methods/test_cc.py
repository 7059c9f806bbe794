"""CC: the numbers of both kinds of code, loops, and what each form sees."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmark.methods.cc import CC

FORMS = ("consecutive", "gaussian", "bilinear")


@pytest.fixture
def cost(features):
    def compute(method, student, teacher):
        return method.loss(features(embedding=student), features(embedding=teacher), None)["cc"]

    return compute


def test_equals_the_authors_values(golden, cost):
    values = golden("cc_consecutive")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        student = inputs["student"].requires_grad_()
        loss = cost(CC(weight=1.0, normalize=hp["normalize"]), student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def test_kernels_equal_torchdistills_values(golden, cost):
    values = golden("cc_rbf")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        method = CC(FORMS[1 + hp["kernel"]], 1.0, normalize=False, gamma=hp["gamma"], order=hp["max_p"])
        student = inputs["student"].requires_grad_()
        loss = cost(method, student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def unit(row):
    return [a / math.sqrt(dot(row, row)) for a in row]


def test_consecutive_products_equal_a_loop(cost, draw):
    student, teacher = draw((5, 3), (5, 3))
    apart = [
        [abs(a - b) for a, b in zip(unit(s), unit(t), strict=True)]
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    expected = sum(dot(apart[i], apart[i + 1]) for i in range(4)) / 4
    assert cost(CC(weight=3.0), student, teacher).item() == pytest.approx(3 * expected, rel=1e-9)


@pytest.mark.parametrize("squared", [False, True])
def test_kernels_equal_a_loop(cost, draw, squared):
    def series(x, y):
        powers = [(2 * 0.7 * dot(x, y)) ** p / math.factorial(p) for p in range(4)]
        return math.exp(-2 * 0.7) * sum(powers)

    student, teacher = draw((5, 3), (5, 4))
    s, t = ([unit(row) for row in x.tolist()] for x in (student, teacher))
    for form, kernel in (("gaussian", series), ("bilinear", dot)):
        apart = [kernel(s[i], s[j]) - kernel(t[i], t[j]) for i in range(5) for j in range(5)]
        norm = dot(apart, apart) if squared else math.sqrt(dot(apart, apart))
        method = CC(form, 3.0, squared=squared, gamma=0.7, order=3)
        assert cost(method, student, teacher).item() == pytest.approx(3 * norm / 25, rel=1e-9)


def test_the_series_approaches_the_gaussian_kernel_of_unit_rows(draw):
    rows = F.normalize(draw((5, 3))[0])
    exact = torch.exp(-0.4 * torch.cdist(rows, rows).square())
    assert torch.allclose(CC("gaussian", order=12).correlations(rows), exact, rtol=1e-9)
    assert not torch.allclose(CC("gaussian", order=2).correlations(rows), exact, rtol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_seen_of_rotation_order_and_scale(cost, draw, form):
    student, teacher = draw((6, 8), (6, 8))
    method = CC(form)
    loss = cost(method, student, teacher)
    rotation = torch.linalg.qr(draw((8, 8), seed=1)[0]).Q
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(cost(method, student @ rotation, teacher), loss, rtol=1e-9) == (form != "consecutive")
    assert torch.allclose(cost(method, student[order], teacher[order]), loss, rtol=1e-9) == (form != "consecutive")
    assert torch.allclose(cost(method, 3 * student, teacher), loss, rtol=1e-9)
    assert not torch.allclose(cost(CC(form, normalize=False), 3 * student, teacher), loss, rtol=0.1)


def test_what_each_form_asks_for():
    assert CC().aligned
    assert CC().needs.equal_embeddings
    for form in FORMS[1:]:
        assert not CC(form).aligned
        assert not CC(form).needs.equal_embeddings


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_student_equal_to_its_teacher_costs_nothing(cost, draw, form, squared):
    student = draw((6, 8))[0].requires_grad_()
    loss = cost(CC(form, squared=squared), student, student.detach())
    loss.backward()
    assert loss == 0
    assert not student.grad.any()


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("form", FORMS)
def test_identical_embeddings_have_finite_gradients(cost, form, value):
    student = torch.full((6, 4), value, requires_grad=True)
    loss = cost(CC(form), student, torch.randn(6, 4))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_short_floats_and_autocast_stay_finite(cost, draw, form, dtype):
    student, teacher = ((300 * x).to(dtype) for x in draw((8, 64), (8, 64)))
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cost(CC(form), student, teacher)
        exact = cost(CC(form), student.detach().float(), teacher.float())
    loss.backward()
    assert student.grad.isfinite().all()
    assert torch.allclose(loss, exact, rtol=1e-5)


@pytest.mark.parametrize("preset", CC.presets)
def test_presets_in_a_step(rig, preset):
    assert rig(CC(**CC.presets[preset])).step()["loss_cc"] > 0
