"""Similarities ranked by the teacher."""

import pytest
import torch

from benchmark.losses import ranked_similarities


def draw(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize(("top_k", "length"), [(3, 3), (6, 6), (50, 6)])
def test_equals_a_loop(top_k, length):
    student, teacher = draw(6, 4, 0), draw(6, 4, 1)
    s, t = ranked_similarities(student, teacher, top_k)
    assert s.shape == t.shape == (6, length)
    for i in range(6):
        cosines = [
            (float(teacher[i] @ x / teacher[i].norm() / x.norm()), float(student[i] @ x / student[i].norm() / x.norm()))
            for x in teacher
        ]
        nearest = sorted(cosines, reverse=True)[:length]
        assert t[i].tolist() == pytest.approx([cosine for cosine, _ in nearest], rel=1e-12)
        assert s[i].tolist() == pytest.approx([cosine for _, cosine in nearest], rel=1e-12)
        assert nearest[0][0] == pytest.approx(1)


def test_is_exact_under_autocast():
    student, teacher = draw(8, 64, 0).float(), draw(8, 64, 1).float()
    exact = ranked_similarities(student, teacher, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = ranked_similarities(student, teacher, 4)
    assert all(torch.equal(a, b) for a, b in zip(autocast, exact, strict=True))
