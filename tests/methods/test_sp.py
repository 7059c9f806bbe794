"""SP: the authors' numbers, a loop, what similarities of activations are blind to, and images that activate nothing."""

import math

import pytest
import torch

from benchmark.methods.sp import SP, similarity_distance


def test_equals_the_authors_values(golden):
    values = golden("sp")
    for case in values.cases:
        inputs = values.inputs(case)
        student = inputs["student"].requires_grad_()
        loss = similarity_distance(student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)
        assert student.grad.isfinite().all()
        assert student.grad.abs().max() < 1


def test_equals_loops(features, draw):
    rows = 4
    maps = draw((rows, 3, 2, 5), (rows, 4, 3, 2))
    normal = []
    for x in (m.flatten(1).tolist() for m in maps):
        gram = [[sum(a * b for a, b in zip(u, v, strict=True)) for v in x] for u in x]
        normal.append([[g / math.sqrt(sum(a * a for a in row)) for g in row] for row in gram])
    expected = sum((normal[0][i][j] - normal[1][i][j]) ** 2 for i in range(rows) for j in range(rows)) / rows**2
    student, teacher = (features(taps={"stage4": m}) for m in maps)
    assert SP(weight=7.0).loss(student, teacher, None)["sp"].item() == pytest.approx(7 * expected, rel=1e-9)


def test_stages_add_up_and_the_embedding_takes_their_place(features, draw):
    maps = draw((4, 3, 2, 5), (4, 4, 3, 2), (4, 6, 1, 1), (4, 8, 1, 1), (4, 16), (4, 24))
    student = features(embedding=maps[4], taps={"stage2": maps[0], "stage3": maps[2]})
    teacher = features(embedding=maps[5], taps={"stage2": maps[1], "stage3": maps[3]})
    stages = SP(weight=2.0, stages=(2, 3)).loss(student, teacher, None)["sp"]
    assert torch.allclose(stages, 2 * sum(similarity_distance(maps[i], maps[i + 1]) for i in (0, 2)))
    embedding = SP(weight=2.0, of="embedding").loss(student, teacher, None)["sp"]
    assert torch.allclose(embedding, 2 * similarity_distance(maps[4], maps[5]))


def test_blind_to_rotation_to_scale_and_to_the_order_of_the_batch(draw):
    student, teacher = draw((6, 8), (6, 10))
    loss = similarity_distance(student, teacher)
    rotation = torch.linalg.qr(draw((8, 8), seed=1)[0]).Q
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    for changed in (
        similarity_distance(student @ rotation, teacher),
        similarity_distance(student[order], teacher[order]),
        similarity_distance(0.1 * student, 7 * teacher),
    ):
        assert torch.allclose(changed, loss, rtol=1e-9)
    lengths = draw((6, 1), seed=3)[0].exp()
    for changed in (
        similarity_distance(student + 3, teacher),
        similarity_distance(student[order], teacher),
        similarity_distance(lengths * student, teacher),  # which cosines would not see
    ):
        assert not torch.allclose(changed, loss, rtol=0.01)


def test_a_student_equal_to_its_teacher_costs_nothing(draw):
    student = draw((6, 3, 4, 4))[0].requires_grad_()
    loss = similarity_distance(student, student.detach().flip(1, 2, 3))
    loss.backward()
    assert loss < 1e-20
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("value", [0.0, 1e-7, 1.0])
def test_identical_and_empty_maps_have_finite_gradients(value):
    student = torch.full((6, 4, 3, 2), value, requires_grad=True)
    loss = similarity_distance(student, torch.randn(6, 5, 2, 2))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1 / (value or 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_finite(draw, dtype):
    student, teacher = ((300 * x).to(dtype) for x in draw((8, 6, 7, 5), (8, 9, 4, 4)))
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = similarity_distance(student, teacher)
        exact = similarity_distance(student.detach().float(), teacher.float())
    loss.backward()
    assert student.grad.isfinite().all()
    assert torch.allclose(loss, exact, rtol=1e-5)


@pytest.mark.parametrize("arguments", [{"stages": (1, 3)}, {"of": "embedding"}], ids=str)
def test_every_argument_in_a_step(rig, arguments):
    made = rig(SP(weight=10.0, **arguments))
    assert len(made.method.student_taps) == len(arguments.get("stages", ()))
    assert made.step()["loss_sp"] > 0
