"""Whiten-MTD: a naive loop, the whitening, the fusion of teachers, and the pairs of a batch."""

import math

import pytest
import torch

from benchmark import UserError
from benchmark.experiment.preflight import preflight
from benchmark.methods.whiten_mtd import WhitenMTD, fuse_similarities, pairs, whitening

LABELS = torch.tensor([3, 1, 3, 2, 1, 3, 2, 3, 2])
"""Pairs are (1, 4), (3, 6), (0, 2) and (5, 7)."""


def cosine(x, y):
    return float(x @ y) / float(x.norm()) / float(y.norm())


def softmax(row, temperature):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def test_matches_naive_loop(total, draw):
    student, teacher = draw((9, 3), (9, 5))
    method = WhitenMTD(whiten=False, student_temperature=0.5, teacher_temperature=0.3, weight=2.0)
    method.fitted = True
    sides = [(1, 4), (3, 6), (0, 2), (5, 7)]
    expected = 0.0
    for one, other in ((0, 1), (1, 0)):
        for pair in sides:
            p = softmax([cosine(teacher[pair[one]], teacher[each[other]]) for each in sides], 0.3)
            q = softmax([cosine(student[pair[one]], student[each[other]]) for each in sides], 0.5)
            expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 4
    assert total(method, labels=LABELS, embedding=(student, teacher)).item() == pytest.approx(2 * expected, rel=1e-9)


def test_teacher_is_whitened(rig):
    made = rig(WhitenMTD(fit_images=32))
    assert made.method.components.shape == (16, 16)
    terms = made.terms()
    made.method.whiten = False
    assert not torch.allclose(terms["whiten_mtd"], made.terms()["whiten_mtd"], rtol=1e-2)


class TestWhitening:
    def test_decorrelates(self, draw):
        rows = draw((40, 6))[0] * torch.tensor([5, 1, 1, 1, 1, 0.5])
        mean, components = whitening(rows, 4)
        whitened = (rows / rows.norm(dim=1, keepdim=True) - mean) @ components.T
        assert torch.allclose(whitened.mean(dim=0), torch.zeros(4).double(), atol=1e-12)
        assert torch.allclose(whitened.T.cov(correction=0), torch.eye(4).double(), atol=1e-9)

    def test_amplifies_empty_directions_by_a_bounded_factor(self, draw):
        rows = draw((3, 8))[0]
        _, components = whitening(rows, 8)
        scales = components.norm(dim=1)
        assert (scales[-1] / scales[0]).item() == pytest.approx(1e5**0.5, rel=1e-6)
        assert all(value.isfinite().all() for value in whitening(torch.ones(4, 8), 8))


def test_fusion_of_teachers():
    first, second = torch.tensor([[0.1, 0.2], [0.3, 0.4]]), torch.tensor([[0.0, 0.4], [0.1, 0.8]])
    assert fuse_similarities([first, second], "maxmin").tolist() == torch.tensor([[0.1, 0.2], [0.1, 0.8]]).tolist()
    assert torch.allclose(fuse_similarities([first, second], "maxmean"), torch.tensor([[0.1, 0.3], [0.2, 0.8]]))
    assert torch.allclose(fuse_similarities([first, second], "mean"), torch.tensor([[0.05, 0.3], [0.2, 0.6]]))
    for strategy in ("maxmin", "maxmean", "mean"):
        assert torch.equal(fuse_similarities([first], strategy), first)


class TestPairs:
    def test_have_one_identity_and_each_image_once(self):
        first, second = pairs(LABELS)
        assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(1, 4), (3, 6), (0, 2), (5, 7)]

    def test_batches_without_pairs_are_refused(self, tiny):
        preflight(tiny("whiten_mtd", "train.sampler.images=1", "train.sampler.views=2", "train.sampler.identities=8"))
        with pytest.raises(UserError, match=r"train.sampler.images: 1: a batch has no two images .* set it to 2"):
            preflight(tiny("whiten_mtd", "train.sampler.images=1", "train.sampler.identities=8"))
