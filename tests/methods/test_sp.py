"""Similarity-preserving distillation: a naive loop, stages, and the embedding."""

import math

import pytest
import torch

from benchmark.methods.sp import SP, similarity_distance


def test_matches_naive_loop(total, draw):
    rows = 4
    maps = draw((rows, 3, 2, 5), (rows, 4, 3, 2))
    normalized = []
    for x in (m.flatten(1).tolist() for m in maps):
        gram = [[sum(a * b for a, b in zip(u, v, strict=True)) for v in x] for u in x]
        normalized.append([[g / math.sqrt(sum(a * a for a in row)) for g in row] for row in gram])
    s, t = normalized
    expected = sum((s[i][j] - t[i][j]) ** 2 for i in range(rows) for j in range(rows)) / rows**2
    assert total(SP(weight=7.0), stage4=maps).item() == pytest.approx(7 * expected, rel=1e-9)


def test_stages_add_up_and_embedding_replaces_them(total, draw):
    maps = draw((4, 3, 2, 5), (4, 4, 3, 2), (4, 6, 1, 1), (4, 8, 1, 1), (4, 16), (4, 24))
    outputs = {"stage2": maps[:2], "stage3": maps[2:4], "embedding": maps[4:]}
    stages = total(SP(weight=2.0, stages=(2, 3)), **outputs)
    assert torch.allclose(stages, 2 * sum(similarity_distance(maps[i], maps[i + 1]) for i in (0, 2)))
    embedding = total(SP(weight=2.0, of="embedding"), **outputs)
    assert torch.allclose(embedding, 2 * similarity_distance(maps[4], maps[5]))
    assert not SP(of="embedding").student_taps
