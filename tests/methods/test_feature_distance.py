"""The per-block feature distance of CDD: a naive loop, and where it has no gradient."""

import torch

from benchmark.losses import feature_distance


def test_matches_naive_loop():
    generator = torch.Generator().manual_seed(0)
    student, teacher = ([torch.randn(5, w, generator=generator).double() for w in (3, 7)] for _ in range(2))
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        for image in range(5):
            expected += sum((float(t[image, c]) - float(s[image, c])) ** 2 for c in range(s.shape[1])) ** 0.5 / 5
    assert abs(feature_distance(student, teacher).item() - expected) < 1e-12


def test_no_gradient_where_student_equals_teacher():
    student = torch.randn(4, 6).requires_grad_()
    teacher = student.detach().clone()
    teacher[1] += 1
    feature_distance([student], [teacher]).backward()
    assert student.grad.isfinite().all()
    assert not student.grad[[0, 2, 3]].any()
    assert student.grad[1].any()


def test_half_precision_does_not_overflow():
    student, teacher = torch.full((2, 8), 3e4, dtype=torch.float16), torch.full((2, 8), -3e4, dtype=torch.float16)
    assert feature_distance([student], [teacher]).isfinite()
