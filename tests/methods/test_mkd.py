"""MKD: the authors' numbers, a loop over pairs, what it is blind to, coincident maps."""

import pytest
import torch

from benchmark.methods.mkd import MKD
from benchmark.model.features import Features

MODES = ("cosine", "l2")


def terms(method: MKD, student: torch.Tensor, teacher: torch.Tensor) -> dict[str, torch.Tensor]:
    empty = torch.empty(0)
    said = [Features(empty, empty, empty, {"stage3": maps}) for maps in (student, teacher)]
    return method.loss(*said, None)


def cost(method: MKD, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return sum(terms(method, student, teacher).values())


def test_equals_the_authors_values(golden):
    values = golden("mkd")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        student = inputs["student"].requires_grad_()
        method = MKD(hp["alpha"], hp["beta"], (3,), hp["p"], MODES[hp["mode"]])
        loss = cost(method, student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)
        assert case.lower().endswith(MODES[hp["mode"]])


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("distance", MODES)
def test_equals_a_loop_over_pairs(draw, power, distance):
    maps = draw((4, 2, 2, 3), (4, 5, 2, 3))
    attention = []
    for x in maps:
        rows = [
            [sum(abs(v) ** power for v in column) / len(column) for column in image.flatten(1).T.tolist()]
            for image in x
        ]
        norms = [sum(v * v for v in row) ** 0.5 if distance == "cosine" else 1 for row in rows]
        attention.append([[v / norm for v in row] for row, norm in zip(rows, norms, strict=True)])

    def distance_of(x, y):
        return max(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) ** 0.5, 1e-6)

    s, t = attention
    errors = {(i, j): (distance_of(t[i], t[j]) - distance_of(s[i], t[j])) ** 2 for i in range(4) for j in range(4)}
    found = terms(MKD(3.0, 5.0, (3,), power, distance), *maps)
    assert found["mkd_own"].item() == pytest.approx(3 * sum(errors[i, i] for i in range(4)) / 4, rel=1e-9)
    assert found["mkd_other"].item() == pytest.approx(5 * sum(errors[p] for p in errors if p[0] != p[1]) / 4, rel=1e-9)


def test_blind_to_channels_positions_signs_and_order_of_images(draw):
    student, teacher = draw((5, 6, 3, 4), (5, 8, 3, 4))
    for distance in MODES:
        method = MKD(stages=(3,), distance=distance)
        expected = cost(method, student, teacher)
        for changed in (
            cost(method, -student.flip(1), teacher),
            cost(method, student.flip(0), teacher.flip(0)),
            cost(method, student.flip(2, 3), teacher.flip(2, 3)),
            cost(method, student, teacher.repeat(1, 2, 1, 1)),
        ):
            assert torch.allclose(changed, expected, rtol=1e-9)
        assert not torch.allclose(cost(method, student.flip(2, 3), teacher), expected, rtol=1e-3)
        assert not torch.allclose(cost(method, student.flip(0), teacher), expected, rtol=1e-3)
        assert not torch.allclose(cost(method, teacher[:, :6], student), expected, rtol=1e-3)


def test_only_normalised_maps_are_blind_to_scale(draw):
    student, teacher = draw((5, 6, 3, 4), (5, 8, 3, 4))
    for distance, blind in zip(MODES, (True, False), strict=True):
        method = MKD(stages=(3,), distance=distance)
        same = torch.allclose(cost(method, 3 * student, teacher), cost(method, student, teacher), rtol=1e-9)
        assert same == blind


@pytest.mark.parametrize("distance", MODES)
def test_a_student_equal_to_its_teacher_costs_nothing(draw, distance):
    (teacher,) = draw((5, 6, 3, 4))
    student = teacher.clone().requires_grad_()
    loss = cost(MKD(stages=(3,), distance=distance), student, teacher)
    loss.backward()
    assert loss.item() == 0
    assert not student.grad.any()


@pytest.mark.parametrize("distance", MODES)
@pytest.mark.parametrize("case", ["zero", "one map for all", "almost equal", "zero teacher"])
def test_coincident_maps_have_finite_gradients(distance, case):
    teacher = torch.rand(6, 5, 3, 4)
    student = {"zero": 0 * teacher, "almost equal": teacher + 1e-6}.get(case, teacher[:1].repeat(6, 1, 1, 1))
    student.requires_grad_()
    teacher = 0 * teacher if case == "zero teacher" else teacher
    loss = cost(MKD(stages=(3,), distance=distance), student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.abs().max() < 100


@pytest.mark.parametrize("distance", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_finite(dtype, distance):
    scale = 300 if distance == "cosine" else 3  # the fourth power of which the gradient would be
    student, teacher = ((scale * torch.randn(6, 8, 6, 4)).to(dtype).requires_grad_() for _ in range(2))
    method = MKD(stages=(3,), distance=distance)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cost(method, student, teacher.detach())
    loss.backward()
    assert torch.allclose(loss, cost(method, student.detach().float(), teacher.detach().float()), rtol=1e-5)
    assert student.grad.isfinite().all()


def test_stages_of_other_sizes_add_up(features, draw):
    first, second, larger = draw((4, 3, 4, 2), (4, 5, 4, 2), (4, 5, 8, 6))
    averaged = larger.view(4, 5, 4, 2, 2, 3).mean(dim=(3, 5))
    both = MKD(stages=(1, 3)).loss(
        features(taps={"stage1": first, "stage3": larger}), features(taps={"stage1": second, "stage3": first}), None
    )
    method = MKD(stages=(3,))
    for name, value in both.items():
        parts = terms(method, first, second)[name] + terms(method, averaged, first)[name]
        assert torch.allclose(value, parts, rtol=1e-9)


def test_without_normalisation_in_training(rig):
    losses = rig(MKD(distance="l2", stages=(4,))).step()
    assert losses["loss_mkd_own"].isfinite() and losses["loss_mkd_own"] > 0
