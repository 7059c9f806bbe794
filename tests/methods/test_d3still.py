"""D3still: naive loops, which pairs are hard or easy, and ties of the teacher."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.methods.d3still import D3still


def cosine(x, y):
    return float(x @ y) / float(x.norm()) / float(y.norm())


def naive(student, teacher, top_k):
    own_errors, hard, easy = [], [], []
    for s, t in zip(student, teacher, strict=True):
        nearest = sorted(teacher, key=lambda x, t=t: -cosine(t, x))[:top_k]
        t_cosines, s_cosines = [cosine(t, x) for x in nearest], [cosine(s, x) for x in nearest]
        own_errors.append(t_cosines[0] - s_cosines[0])
        sums = {True: 0.0, False: 0.0}
        for m in range(1, len(nearest)):
            for n in range(1, len(nearest)):
                dt, ds = t_cosines[n] - t_cosines[m], s_cosines[n] - s_cosines[m]
                if abs(dt) > 1e-6:  # otherwise the two are tied
                    sums[ds / dt > 0] += ((ds - dt) / (0.1 + abs(dt))) ** 2
        hard.append(math.sqrt(sums[False]))
        easy.append(math.sqrt(sums[True]))
    size = len(student)
    feature = math.sqrt(sum(error**2 for error in own_errors)) / size
    return feature, sum(hard) / size / (top_k - 1), sum(easy) / size / (top_k - 1)


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(2, 7), width=st.integers(3, 9), top_k=st.integers(2, 9), seed=st.integers(0, 999))
def test_matches_naive_loops(terms, rows, width, top_k, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for _ in range(2))
    loss = terms(D3still(top_k, 2.0, 3.0, 5.0), embedding=(student, teacher))
    feature, hard, easy = naive(student, teacher, top_k)
    computed = [loss[f"d3still_{name}"].item() for name in ("feature", "hard", "easy")]
    assert computed == pytest.approx([2 * feature, 3 * hard, 5 * easy], rel=1e-9, abs=1e-12)


def test_reversed_order_is_hard_and_compressed_range_is_easy(terms, draw):
    (teacher,) = draw((6, 8))
    reversed_order = terms(D3still(), embedding=(-teacher, teacher))
    assert reversed_order["d3still_hard"] > 1
    assert reversed_order["d3still_easy"] == 0
    wide = torch.cat([teacher, torch.zeros(6, 1)], dim=1)
    shrunk = wide + torch.cat([torch.zeros(6, 8), teacher.norm(dim=1, keepdim=True)], dim=1)  # all cosines shrink alike
    compressed = terms(D3still(), embedding=(shrunk, wide))
    assert compressed["d3still_easy"] > 0.1
    assert compressed["d3still_hard"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tied_neighbors_form_no_pair(terms, draw, dtype):
    """Images on opposite sides of an anchor are equally similar to it, up to rounding, but not for the student."""
    student, rows = draw((13, 24), (13, 24))
    anchor = rows[0]
    sides = rows[1:7] - (rows[1:7] @ anchor / (anchor @ anchor))[:, None] * anchor  # orthogonal to the anchor
    teacher = torch.cat([anchor[None], 3 * anchor + sides, 3 * anchor - sides])
    loss = terms(D3still(13, 2.0, 3.0, 5.0), embedding=(student.to(dtype), teacher.to(dtype)))
    feature, hard, easy = naive(student, teacher, 13)
    computed = [loss[f"d3still_{name}"].item() for name in ("feature", "hard", "easy")]
    assert computed == pytest.approx([2 * feature, 3 * hard, 5 * easy], rel=1e-4)
