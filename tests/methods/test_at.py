"""Attention transfer: the authors' numbers in both forms, loops over positions, what it is blind to."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.methods.at import AT
from benchmark.model.features import Features


def cost(method: AT, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(0)
    said = [Features(empty, empty, empty, {"stage3": maps}) for maps in (student, teacher)]
    return method.loss(*said, None)["at"]


@pytest.mark.parametrize(("name", "form"), [("at", "code"), ("at_paper", "paper")])
def test_equals_the_authors_values(golden, name, form):
    values = golden(name)
    for case in values.cases:
        inputs, power = values.inputs(case), values.meta[case]["hp"].get("p", 2)
        student = inputs["student"].requires_grad_()
        loss = cost(AT(1.0, (3,), power, form), student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def attention_of(maps: torch.Tensor, power: int) -> list[float]:
    """Of one image, (C, H, W)."""
    channels, height, width = maps.shape
    raw = [
        sum(abs(maps[c, i, j].item()) ** power for c in range(channels)) for i in range(height) for j in range(width)
    ]
    norm = sum(value**2 for value in raw) ** 0.5
    return [value / norm for value in raw]


@pytest.mark.parametrize("power", [1, 2, 3])
def test_equals_a_loop(draw, power):
    student, teacher = draw((3, 2, 2, 3), (3, 4, 2, 3))
    squares = []
    for s, t in zip(student, teacher, strict=True):
        pairs = zip(attention_of(s, power), attention_of(t, power), strict=True)
        squares.append(sum((a - b) ** 2 for a, b in pairs))
    code, paper = cost(AT(2.0, (3,), power), student, teacher), cost(AT(2.0, (3,), power, "paper"), student, teacher)
    assert code.item() == pytest.approx(2 * sum(squares) / 3 / 6, rel=1e-9)
    assert paper.item() == pytest.approx(2 * sum(square**0.5 for square in squares) / 3, rel=1e-9)


@pytest.mark.parametrize("form", ["code", "paper"])
@settings(deadline=None, max_examples=25)
@given(
    channels=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    scale=st.floats(0.01, 100),
)
def test_blind_to_channels_signs_and_scale(form, channels, size, scale):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, c, *size, generator=generator).double() for c in channels)
    method = AT(form=form, stages=(3,))
    expected = cost(method, student, teacher)
    order, images = (torch.randperm(n, generator=generator) for n in (channels[0], 4))
    scales = scale * torch.rand(4, 1, 1, 1, generator=generator).double() + 0.01
    for changed in (
        cost(method, student[:, order], teacher),
        cost(method, -student, teacher),
        cost(method, scales * student, teacher),
        cost(method, student[images], teacher[images]),
        cost(method, student.transpose(2, 3), teacher.transpose(2, 3)),
    ):
        assert torch.allclose(changed, expected, rtol=1e-9, atol=1e-12)
    assert cost(method, scales * teacher, teacher).item() < 1e-10


@pytest.mark.parametrize("form", ["code", "paper"])
def test_sees_a_shift_and_another_place(draw, form):
    student, teacher = draw((4, 5, 3, 4), (4, 5, 3, 4))
    method = AT(form=form, stages=(3,))
    expected = cost(method, student, teacher)
    assert not torch.allclose(cost(method, student + 1, teacher), expected, rtol=1e-2)
    assert not torch.allclose(cost(method, student.flip(3), teacher), expected, rtol=1e-2)


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("case", ["zero", "equal", "almost equal", "zero teacher"])
def test_degenerate_maps_have_finite_gradients(form, case):
    teacher = torch.rand(4, 5, 3, 4)
    student = {"zero": 0 * teacher, "equal": teacher.clone(), "almost equal": teacher + 1e-6}.get(case, teacher + 1)
    student.requires_grad_()
    loss = cost(AT(1.0, (3,), form=form), student, 0 * teacher if case == "zero teacher" else teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.abs().max() < 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", ["code", "paper"])
def test_short_floats_and_autocast_stay_finite(dtype, form):
    student, teacher = ((300 * torch.randn(4, 8, 6, 4)).to(dtype).requires_grad_() for _ in range(2))
    method = AT(form=form, stages=(3,), power=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cost(method, student, teacher.detach())
    loss.backward()
    assert torch.allclose(loss, cost(method, student.detach().float(), teacher.detach().float()), rtol=1e-5)
    assert student.grad.isfinite().all()


def test_stages_add_up_and_maps_of_other_sizes_are_averaged(features, draw):
    first, second, larger = draw((2, 3, 4, 2), (2, 5, 4, 2), (2, 5, 8, 6))
    averaged = larger.view(2, 5, 4, 2, 2, 3).mean(dim=(3, 5))
    both = AT(1.0, (1, 3)).loss(
        features(taps={"stage1": first, "stage3": larger}), features(taps={"stage1": second, "stage3": first}), None
    )["at"]
    parts = cost(AT(1.0, (3,)), first, second) + cost(AT(1.0, (3,)), averaged, first)
    assert torch.allclose(both, parts, rtol=1e-9)


def test_the_paper_s_form_in_training(rig):
    losses = rig(AT(**AT.presets["paper"])).step()
    assert 0 < losses["loss_at"] < 4 * 2**0.5
