"""RAML: the numbers of both released codes, loops, groups of views, what could break it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmark.methods.raml import RAML, raml_terms
from benchmark.model.features import Features

EMPTY = torch.empty(0)


def terms(method: RAML, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    return method.loss(Features(EMPTY, student, EMPTY), Features(EMPTY, teacher, EMPTY), None)


def total(method: RAML, student: Tensor, teacher: Tensor) -> Tensor:
    return sum(terms(method, student, teacher).values())


def by_views(views: int, **given) -> RAML:
    method = RAML(relations="views", **given)
    method.views = views
    return method


def test_equals_the_reimplementations_values(golden):
    values = golden("raml_batch")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        student = inputs["student"].requires_grad_()
        loss = total(RAML(hp["lam_1"], hp["lam_2"]), student, inputs["teacher"])
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def test_equals_the_authors_values(golden):
    """Their gradient is that of rows that are normalised already."""
    values = golden("raml")
    for case in values.cases:
        inputs, hp = values.inputs(case), values.meta[case]["hp"]
        student, teacher = inputs["student"].requires_grad_(), inputs["teacher"]
        absolute, mixed, within = raml_terms(student, teacher)
        loss = absolute + hp["lam_1"] * mixed + hp["lam_2"] * within
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)
        method = by_views(student.shape[1], mixed_weight=hp["lam_1"], student_weight=hp["lam_2"])
        values.check(case, total(method, 3 * student.detach().flatten(0, 1), teacher.flatten(0, 1)))


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y) / float(x.norm()) / float(y.norm())


def by_loops(student: Tensor, teacher: Tensor) -> tuple[float, float, float]:
    size = len(student)
    pairs = [(i, j) for i in range(size) for j in range(size) if i != j]
    absolute = sum((1 - cosine(s, t) + 1e-6) ** 2 for s, t in zip(student, teacher, strict=True)) / size
    mixed, within = (
        sum((cosine(student[i], other[j]) - cosine(teacher[i], teacher[j]) + 1e-6) ** 2 for i, j in pairs) / len(pairs)
        for other in (teacher, student)
    )
    return absolute, mixed, within


@pytest.mark.parametrize("views", [2, 3, 6])
def test_equals_loops_over_each_group(draw, views):
    student, teacher = draw((6, 5), (6, 5))
    groups = [by_loops(student[i : i + views], teacher[i : i + views]) for i in range(0, 6, views)]
    expected = [sum(parts) for parts in zip(*groups, strict=True)]
    loss = terms(by_views(views, mixed_weight=2.0, student_weight=3.0, weight=5.0), student, teacher)
    found = [loss[f"raml_{name}"].item() for name in ("absolute", "mixed", "student")]
    assert found == pytest.approx([5 * expected[0], 10 * expected[1], 15 * expected[2]], rel=1e-9)
    if views == 6:
        assert total(RAML(), student, teacher) == total(by_views(6), student, teacher), "the batch is one group"


def test_views_do_not_compare_different_images(draw):
    """Rotating an image's views in both spaces changes its relations to other images, which only `batch` reads."""
    student, teacher, square = draw((6, 8), (6, 8), (8, 8))
    rotation = torch.linalg.qr(square).Q
    turned = [torch.cat([x[:3], x[3:] @ rotation]) for x in (student, teacher)]
    assert torch.allclose(total(by_views(3), *turned), total(by_views(3), student, teacher), rtol=1e-9)
    assert not torch.allclose(total(RAML(), *turned), total(RAML(), student, teacher), rtol=1e-3)


def test_blind_to_a_common_rotation_to_order_and_scale_but_not_to_a_rotation_of_one(draw):
    student, teacher, square = draw((6, 8), (6, 8), (8, 8))
    rotation, order = torch.linalg.qr(square).Q, torch.tensor([3, 1, 5, 0, 2, 4])
    expected = total(RAML(), student, teacher)
    for changed in (
        (student @ rotation, teacher @ rotation),
        (student[order], teacher[order]),
        (student * 9, teacher / 9),
    ):
        assert torch.allclose(total(RAML(), *changed), expected, rtol=1e-9)
    alone = terms(RAML(), student @ rotation, teacher)
    before = terms(RAML(), student, teacher)
    assert torch.allclose(alone["raml_student"], before["raml_student"], rtol=1e-9)
    assert not torch.allclose(alone["raml_absolute"], before["raml_absolute"], rtol=1e-3)


def test_a_student_equal_to_its_teacher_costs_nothing(draw):
    (teacher,) = draw((6, 8))
    student = (3 * teacher).requires_grad_()
    for method in (RAML(), by_views(2)):
        loss = total(method, student, teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.item() < 1e-11
        assert gradient.abs().max() < 1e-5


def test_learns_from_batches_of_views(rig):
    """As the sampler would have it: each image twice, next to itself."""
    made = rig(RAML(relations="views", weight=0.1), plan=replace(rig(RAML()).plan, views=2))
    made.batches = [type(b)(*(x[:16].repeat_interleave(2, 0) for x in b)) for b in made.batches]
    losses = made.step()
    assert all(losses[f"loss_raml_{name}"] > 0 for name in ("absolute", "mixed", "student"))
    assert made.method.needs.views
    assert not RAML().needs.views


def test_presets_of_the_authors_compare_views_and_that_of_the_reimplementation_the_batch():
    asked = {name: RAML(**given).needs.views for name, given in RAML.presets.items()}
    assert asked == {"cub": True, "cars": True, "sop": True, "air_distiller": False}
