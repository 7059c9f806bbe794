"""CDD's feature term against the authors' numbers, and where it has no slope."""

import torch

from benchmark.losses import feature_distance


def test_equals_the_authors_values(golden):
    values = golden("cdd_feature")
    for case in values.cases:
        inputs = values.inputs(case)
        student = [inputs[f"student{i}"].requires_grad_() for i in range(3)]
        loss = feature_distance(student, [inputs[f"teacher{i}"] for i in range(3)])
        loss.backward()
        values.check(case, loss.detach(), **{f"student{i}": s.grad for i, s in enumerate(student)})


def test_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    student, teacher = ([torch.randn(5, w, generator=generator).double() for w in (3, 7)] for _ in range(2))
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        for image in range(5):
            expected += sum((float(t[image, c]) - float(s[image, c])) ** 2 for c in range(s.shape[1])) ** 0.5 / 5
    assert abs(feature_distance(student, teacher).item() - expected) < 1e-12


def test_no_gradient_where_student_and_teacher_agree():
    student = torch.randn(4, 6).requires_grad_()
    teacher = student.detach().clone()
    teacher[1] += 1
    feature_distance([student], [teacher]).backward()
    assert student.grad.isfinite().all()
    assert not student.grad[[0, 2, 3]].any()
    assert student.grad[1].any()


def test_short_floats_do_not_overflow():
    student, teacher = torch.full((2, 8), 3e4, dtype=torch.float16), torch.full((2, 8), -3e4, dtype=torch.float16)
    assert feature_distance([student], [teacher]).isfinite()
