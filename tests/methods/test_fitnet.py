"""FitNets: a naive loop over entries, embeddings without a regressor, and stages."""

import pytest
from torch import nn

from benchmark import Embedder
from benchmark.methods.fitnet import FitNet


def prepared(method, student=8, teacher=12, student_dim=16, teacher_dim=16):
    """Prepare for networks with this many channels in every stage and these embedding sizes."""
    sides = ((student, student_dim), (teacher, teacher_dim))
    networks = [Embedder("resnet18", args={"channels": [width] * 4}, dim=dim) for width, dim in sides]
    method.prepare(*networks, None)
    return method.double()


def test_matches_naive_loop(total, draw):
    student, teacher = draw((3, 2, 2, 3), (3, 4, 2, 3))
    method = prepared(FitNet("stages", 3.0, (2,)), 2, 4)
    weight = method.regressors[0].weight.tolist()
    squares = 0.0
    for b in range(3):
        for c in range(4):
            for i in range(2):
                for j in range(3):
                    mapped = sum(weight[c][k][0][0] * student[b, k, i, j].item() for k in range(2))
                    squares += (mapped - teacher[b, c, i, j].item()) ** 2
    loss = total(method, stage2=(student, teacher))
    assert loss.item() == pytest.approx(3 * squares / (3 * 4 * 2 * 3), rel=1e-9)


def test_embeddings_of_equal_size_need_no_regressor(total, draw):
    student, teacher = draw((5, 16), (5, 16))
    method = prepared(FitNet())
    assert not list(method.parameters())
    loss = total(method, embedding=(student, teacher))
    assert loss.item() == pytest.approx(2 * (student - teacher).square().mean().item(), rel=1e-12)


def test_only_embeddings_of_equal_size_are_aligned():
    assert FitNet().aligned
    assert prepared(FitNet()).aligned
    assert not FitNet("stages").aligned
    assert not prepared(FitNet(), teacher_dim=24).aligned


def test_stages_add_up_and_larger_maps_are_pooled(total, draw):
    large, small = draw((2, 6, 8, 4), (2, 6, 4, 2))
    method = prepared(FitNet("stages", 1.0, (1, 2)), 6, 6)
    for regressor in method.regressors:
        nn.init.dirac_(regressor.weight)
    loss = total(method, stage1=(large, small), stage2=(small, large))
    pooled = large.view(2, 6, 4, 2, 2, 2).mean(dim=(3, 5))
    assert loss.item() == pytest.approx(2 * (pooled - small).square().mean().item(), rel=1e-9)
