"""Relaxed contrastive loss: naive loops, and which pairs attract and repel."""

import math

import pytest
import torch

from benchmark.methods.relaxed_contrastive import RelaxedContrastive


def test_matches_naive_loops(total, draw):
    student, teacher = draw((5, 3), (5, 4))
    s, t = student.tolist(), teacher.tolist()
    t = [[a / math.sqrt(sum(b * b for b in row)) for a in row] for row in t]
    expected = 0.0
    for i in range(5):
        mean = sum(math.dist(s[i], s[k]) for k in range(5)) / 5
        for j in range(5):
            if i != j:
                w, d = math.exp(-(math.dist(t[i], t[j]) ** 2) / 0.7), math.dist(s[i], s[j]) / mean
                expected += (w * d**2 + (1 - w) * max(0, 1.2 - d) ** 2) / 5
    loss = total(RelaxedContrastive(3.0, 0.7, 1.2), embedding=(student, teacher))
    assert loss.item() == pytest.approx(3 * expected, rel=1e-9)


def test_pairs_similar_in_the_teacher_attract_and_others_repel(total):
    method = RelaxedContrastive(sigma=0.01)
    student = torch.tensor([[0.0], [1.0], [2.5]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    (gradient,) = torch.autograd.grad(total(method, embedding=(student, teacher)), student)
    assert gradient[0] < 0 < gradient[1]  # a step against the gradient brings 0 and 1 together
    crowded, spread = (
        total(method, embedding=(torch.tensor([[0.0], [place], [2.0]]), torch.eye(3))) for place in (0.1, 1.0)
    )
    assert spread < crowded
