"""UNIC: a naive loop over two steps, teacher dropping, and the momentum of the statistics."""

import math

import pytest
import torch

from benchmark.methods.unic import UNIC, kept_mean, kept_teachers, standardize


def smooth_l1(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def cosine(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def test_matches_naive_loop(rig, total, draw):
    """The first batch is not standardized, the second by the statistics of the first."""
    method = rig(UNIC(0.3, 0.6, weight=2.0)).method.double()
    batches = draw((5, 16), (5, 16), (5, 16), (5, 16))
    mean, std = [0.0] * 16, [1.0] * 16
    for student, teacher in (batches[:2], batches[2:]):
        expected = 0.0
        for s, t in zip(method.head(student).tolist(), teacher.tolist(), strict=True):
            y = [(t[d] - mean[d]) / (std[d] + 1e-6) for d in range(16)]
            distance = sum(smooth_l1(a - b) for a, b in zip(s, y, strict=True)) / 16
            expected += (0.3 * (1 - cosine(s, y)) + 0.6 * distance) / 5
        assert total(method, embedding=(student, teacher)).item() == pytest.approx(2 * expected, rel=1e-9)
        mean = teacher.mean(dim=0).tolist()
        std = [
            math.sqrt(sum((t - m) ** 2 for t in column) / 4) + 1e-6
            for column, m in zip(teacher.T.tolist(), mean, strict=True)
        ]


def test_momentum_falls_from_1_to_a_thousandth(rig, total, draw):
    method = rig(UNIC()).method.double()  # a plan of 20 steps
    teacher = torch.ones(4, 16).double()
    moved = []
    for _ in range(20):
        method.mean = torch.zeros(16).double()
        total(method, embedding=(teacher, teacher))
        moved.append(method.mean[0].item())
    assert moved == sorted(moved, reverse=True)
    assert moved[0] == 1
    assert moved[10] == pytest.approx(0.5005)
    assert 0.001 < moved[-1] < 0.01


def test_statistics_are_those_of_all_tokens(draw):
    features, mean, std = draw((3, 4, 5), (5,), (5,))
    standardized, new_mean, new_std = standardize(features, mean, std.exp(), 1.0)
    rows = features.reshape(12, 5)
    assert torch.allclose(standardized[1, 2], (features[1, 2] - mean) / (std.exp() + 1e-6))
    assert torch.allclose(new_mean, rows.mean(dim=0))
    assert torch.allclose(new_std, rows.std(dim=0) + 1e-6)


class TestTeacherDropping:
    losses = torch.tensor([[1.0, 5.0, 2.0], [3.0, 4.0, 1.0], [2.0, 6.0, 0.0]])

    @pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
    def test_keeps_the_largest_loss_and_others_at_random(self, probability):
        generator = torch.Generator().manual_seed(0)
        keep = torch.stack([kept_teachers(self.losses, probability, generator) for _ in range(4000)])
        largest = torch.zeros(3, 3, dtype=torch.bool)
        largest[[1, 2, 0], [0, 1, 2]] = True
        frequency = keep.double().mean(dim=0)
        assert (frequency[largest] == 1).all()
        assert (frequency[~largest] - (1 - probability)).abs().max() < 0.03

    def test_mean_over_what_is_kept(self):
        keep = torch.tensor([[True, False, False], [True, True, False], [False, True, True]])
        assert kept_mean(self.losses, keep).item() == pytest.approx((1 + 3 + 4 + 6 + 0) / 5)

    def test_a_single_teacher_is_kept(self):
        assert kept_teachers(self.losses[:1], 1.0, torch.Generator()).all()
