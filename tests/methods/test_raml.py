"""RAML: naive loops, groups of views, the invariances of each term, and which presets need views."""

from dataclasses import replace

import pytest
import torch

from benchmark.methods.raml import RAML


def by_views(views, **arguments):
    method = RAML(relations="views", **arguments)
    method.views = views
    return method


def rotation(draw):
    return torch.linalg.qr(draw((8, 8), seed=1)[0]).Q


def cosine(x, y):
    return float(x @ y) / float(x.norm()) / float(y.norm())


def naive(student, teacher):
    size = len(student)
    pairs = [(i, j) for i in range(size) for j in range(size) if i != j]
    absolute = sum((1 - cosine(s, t) + 1e-6) ** 2 for s, t in zip(student, teacher, strict=True)) / size
    mixed, within = (
        sum((cosine(student[i], other[j]) - cosine(teacher[i], teacher[j]) + 1e-6) ** 2 for i, j in pairs) / len(pairs)
        for other in (teacher, student)
    )
    return absolute, mixed, within


@pytest.mark.parametrize("views", [2, 3, 6])
def test_matches_naive_loops_over_each_group(terms, total, draw, views):
    student, teacher = draw((6, 5), (6, 5))
    groups = [naive(student[i : i + views], teacher[i : i + views]) for i in range(0, 6, views)]
    absolute, mixed, within = (sum(parts) for parts in zip(*groups, strict=True))
    method = by_views(views, mixed_weight=2.0, student_weight=3.0, weight=5.0)
    loss = terms(method, embedding=(student, teacher))
    computed = [loss[f"raml_{name}"].item() for name in ("absolute", "mixed", "student")]
    assert computed == pytest.approx([5 * absolute, 10 * mixed, 15 * within], rel=1e-9)


def test_batch_is_one_group(total, draw):
    outputs = draw((6, 5), (6, 5))
    assert total(RAML(), embedding=outputs) == total(by_views(6), embedding=outputs)


def test_views_do_not_relate_different_images(total, draw):
    """A common rotation of one image's views changes its relations to other images, which only `batch` compares."""
    student, teacher = draw((6, 8), (6, 8))
    rotated = [torch.cat([x[:3], x[3:] @ rotation(draw)]) for x in (student, teacher)]
    for method, invariant in ((by_views(3), True), (RAML(), False)):
        before, after = (total(method, embedding=outputs) for outputs in ((student, teacher), rotated))
        assert torch.allclose(after, before, rtol=1e-9 if invariant else 1e-3) == invariant


def test_only_student_term_is_invariant_to_rotation_of_the_student(terms, draw):
    student, teacher = draw((6, 8), (6, 8))
    before, after = (terms(RAML(), embedding=(s, teacher)) for s in (student, student @ rotation(draw)))
    assert torch.allclose(after["raml_student"], before["raml_student"], rtol=1e-9)
    assert not torch.allclose(after["raml_absolute"], before["raml_absolute"], rtol=1e-3)


def test_trains_on_batches_of_views(rig, plan):
    """Batches as the sampler makes them: the views of an image are consecutive."""
    running = rig(RAML(relations="views", weight=0.1), plan=replace(plan, views=2))
    running.batches = [type(b)(*(x[:16].repeat_interleave(2, 0) for x in b)) for b in running.batches]
    losses = running.step()
    assert all(losses[f"loss_raml_{name}"] > 0 for name in ("absolute", "mixed", "student"))


def test_presets_of_the_authors_need_views():
    needs = {name: RAML(**arguments).needs.views for name, arguments in RAML.presets.items()}
    assert needs == {"cub": True, "cars": True, "sop": True, "air_distiller": False}
    assert not RAML().needs.views
