"""Neuron selectivity transfer: the authors' numbers, a loop over pairs of channels, both ways to compute it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.methods.nst import NST, squared_mmd


def test_equals_the_authors_values(golden, features):
    values = golden("nst")
    for case in values.cases:
        inputs = values.inputs(case)
        student = inputs["student"].requires_grad_()
        said = (features(taps={"stage3": maps}) for maps in (student, inputs["teacher"]))
        loss = NST(1.0, (3,)).loss(*said, None)["nst"]
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def by_loop(student: torch.Tensor, teacher: torch.Tensor) -> float:
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
def test_equals_a_loop_with_more_channels_than_positions_and_with_fewer(channels, size):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, c, *size, generator=generator).double() for c in channels)
    assert squared_mmd(student, teacher).item() == pytest.approx(by_loop(student, teacher), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("size", [(2, 2), (5, 6)], ids=["between positions", "between channels"])
def test_blind_to_order_scale_and_sign_of_channels(draw, size):
    student, teacher, scales = draw((4, 8, *size), (4, 8, *size), (4, 8, 1, 1))
    expected = squared_mmd(student, teacher)
    for changed in (
        squared_mmd(student.flip(1), teacher),
        squared_mmd(scales * student, teacher),
        squared_mmd(student.flip(0), teacher.flip(0)),
        squared_mmd(student.flip(2), teacher.flip(2)),
        squared_mmd(teacher, student),
        squared_mmd(student.repeat(1, 3, 1, 1), teacher),
    ):
        assert torch.allclose(changed, expected, rtol=1e-9)
    assert squared_mmd(scales * teacher.flip(1), teacher).abs() < 1e-12
    assert not torch.allclose(squared_mmd(student.flip(2), teacher), expected, rtol=1e-2)
    assert not torch.allclose(squared_mmd(student + 1, teacher), expected, rtol=1e-2)


@pytest.mark.parametrize("size", [(2, 2), (5, 6)])
@pytest.mark.parametrize("case", ["zero", "equal", "almost equal", "equal channels"])
def test_degenerate_maps_have_finite_gradients(size, case):
    teacher = torch.rand(4, 8, *size)
    student = {
        "zero": 0 * teacher,
        "equal": teacher.clone(),
        "almost equal": teacher + 1e-6,
        "equal channels": teacher[:, :1].repeat(1, 8, 1, 1),
    }[case].requires_grad_()
    loss = squared_mmd(student, teacher)
    loss.backward()
    assert loss.isfinite() and loss > -1e-6
    assert student.grad.abs().max() < 1
    if case in ("equal", "almost equal"):
        assert student.grad.abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(2, 2), (5, 6)])
def test_short_floats_and_autocast_stay_finite(features, dtype, size):
    student, teacher = ((300 * torch.rand(4, 8, *size)).to(dtype).requires_grad_() for _ in range(2))
    method = NST(stages=(3,))

    def cost(s, t):
        return method.loss(features(taps={"stage3": s}), features(taps={"stage3": t}), None)["nst"]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cost(student, teacher.detach())
    loss.backward()
    assert torch.allclose(loss, cost(student.detach().float(), teacher.detach().float()), rtol=1e-5)
    assert student.grad.isfinite().all()


def test_stages_of_other_sizes_add_up(features, draw):
    first, second, larger = draw((2, 3, 4, 2), (2, 5, 4, 2), (2, 5, 8, 6))
    averaged = larger.view(2, 5, 4, 2, 2, 3).mean(dim=(3, 5))
    both = NST(2.0, (1, 3)).loss(
        features(taps={"stage1": first, "stage3": larger}), features(taps={"stage1": second, "stage3": first}), None
    )["nst"]
    assert torch.allclose(both, 2 * (squared_mmd(first, second) + squared_mmd(averaged, first)), rtol=1e-9)
