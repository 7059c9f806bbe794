"""Correlation congruence: naive loops, the Taylor series, and what the forms require."""

import math

import pytest
import torch
import torch.nn.functional as F

from benchmark.methods.cc import CC


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def unit(row):
    return [a / math.sqrt(dot(row, row)) for a in row]


def test_consecutive_form_matches_naive_loop(total, draw):
    student, teacher = draw((5, 3), (5, 3))
    differences = [
        [abs(a - b) for a, b in zip(unit(s), unit(t), strict=True)]
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    expected = sum(dot(differences[i], differences[i + 1]) for i in range(4)) / 4
    assert total(CC(weight=3.0), embedding=(student, teacher)).item() == pytest.approx(3 * expected, rel=1e-9)


@pytest.mark.parametrize("squared", [False, True])
def test_kernel_forms_match_naive_loop(total, draw, squared):
    def series(x, y):
        powers = [(2 * 0.7 * dot(x, y)) ** p / math.factorial(p) for p in range(4)]
        return math.exp(-2 * 0.7) * sum(powers)

    student, teacher = draw((5, 3), (5, 4))
    s, t = ([unit(row) for row in x.tolist()] for x in (student, teacher))
    for form, kernel in (("gaussian", series), ("bilinear", dot)):
        differences = [kernel(s[i], s[j]) - kernel(t[i], t[j]) for i in range(5) for j in range(5)]
        norm = dot(differences, differences) if squared else math.sqrt(dot(differences, differences))
        method = CC(form, 3.0, squared=squared, gamma=0.7, order=3)
        assert total(method, embedding=(student, teacher)).item() == pytest.approx(3 * norm / 25, rel=1e-9)


def test_series_approaches_gaussian_kernel_of_unit_rows(draw):
    rows = F.normalize(draw((5, 3))[0])
    exact = torch.exp(-0.4 * torch.cdist(rows, rows).square())
    assert torch.allclose(CC("gaussian", order=12).correlations(rows), exact, rtol=1e-9)
    assert not torch.allclose(CC("gaussian", order=2).correlations(rows), exact, rtol=1e-3)


@pytest.mark.parametrize(("form", "aligned"), [("consecutive", True), ("gaussian", False), ("bilinear", False)])
def test_only_consecutive_form_aligns_spaces_of_equal_size(form, aligned):
    assert CC(form).aligned == CC(form).needs.equal_embeddings == aligned
