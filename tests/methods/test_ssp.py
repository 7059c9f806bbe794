"""SSP: a naive loop, its invariances, and the anchors that are fitted to the teacher's embeddings."""

import math

import pytest
import torch

from benchmark import UserError
from benchmark.methods.ssp import SSP, centroids


def fitted(anchors, **arguments):
    method = SSP(*anchors.shape[:2], **arguments)
    method.fitted, method.anchors = True, anchors
    return method


def cosine(x, y):
    return float(x @ y) / float(x.norm()) / float(y.norm())


def naive(student, teacher, anchors, temperature):
    total, (blocks, _, size) = 0.0, anchors.shape
    for s, t in zip(student, teacher, strict=True):
        for m in range(blocks):
            part = slice(m * size, (m + 1) * size)
            shares = []
            for x in (s, t):
                powers = [math.exp(cosine(x[part], anchor) / temperature) for anchor in anchors[m]]
                shares.append([power / sum(powers) for power in powers])
            total += sum(p * math.log(p / q) for q, p in zip(*shares, strict=True))
    return total / len(student) / blocks


@pytest.mark.parametrize("shape", [(1, 5, 6), (2, 3, 3), (6, 4, 1)])
def test_matches_naive_loop(total, draw, shape):
    student, teacher, anchors = draw((4, 6), (4, 6), shape)
    loss = total(fitted(anchors, temperature=0.3, weight=2.0), embedding=(student, teacher))
    assert loss.item() == pytest.approx(2 * naive(student, teacher, anchors, 0.3), rel=1e-9)


def test_ignores_the_lengths_of_blocks_and_not_their_directions(total, draw):
    student, teacher, anchors, factors = draw((4, 6), (4, 6), (2, 5, 3), (4, 2, 1))
    method = fitted(anchors)
    expected = total(method, embedding=(student, teacher))
    scaled = (student.unflatten(1, (2, 3)) * factors.exp()).flatten(1)
    assert torch.allclose(total(method, embedding=(scaled, teacher)), expected, rtol=1e-9)
    assert total(method, embedding=(scaled, scaled / 2)).abs() < 1e-12
    assert not torch.allclose(total(method, embedding=(student.flip(1), teacher)), expected, rtol=1e-2)


def test_free_embeddings_approach_the_teacher(total, draw):
    """Embeddings that nothing but this loss moves."""
    student, teacher, anchors = draw((12, 16), (12, 16), (2, 32, 8))
    optimizer = torch.optim.Adam([student.requires_grad_()], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        total(fitted(anchors), embedding=(student, teacher)).backward()
        optimizer.step()
    blocks = (x.detach().unflatten(1, (2, 8)) for x in (student, teacher))
    assert torch.cosine_similarity(*blocks, dim=2).mean() > 0.9


class TestAnchors:
    def test_are_the_means_of_the_rows_that_are_nearest(self, draw):
        rows = draw((60, 2))[0] + 4 * draw((3, 2))[0].repeat(20, 1)
        found = centroids(rows, 3, seed=0)
        nearest = torch.cdist(rows, found).argmin(dim=1)
        means = torch.stack([rows[nearest == n].mean(dim=0) for n in range(3)])
        assert torch.allclose(found, means, atol=0.1)  # after 10 iterations
        assert torch.equal(found, centroids(rows, 3, seed=0))

    def test_repeat_if_there_are_few_embeddings(self, draw):
        (rows,) = draw((3, 4))
        found = centroids(rows, 7, seed=0)
        assert found.shape == (7, 4)
        assert torch.equal(found.unique(dim=0), found[:3].unique(dim=0))

    def test_are_fitted_once_to_the_first_embeddings(self, rig):
        made = rig(SSP(centroids=4, fit_images=50))
        assert not [term for term in made.step(0) if "ssp" in term]
        assert "loss_ssp" in made.step(1)
        anchors = made.method.anchors.clone()
        assert anchors.unique(dim=1).shape == (8, 4, 2)
        made.end_epoch()
        made.step(2)
        assert torch.equal(made.method.anchors, anchors)

    def test_are_fitted_after_the_first_epoch(self, rig):
        made = rig(SSP(centroids=4))
        made.step(0)
        made.end_epoch()
        assert "loss_ssp" in made.step(1)


@pytest.mark.parametrize("blocks", [3, 16, 32])
def test_blocks_that_do_not_fit_are_refused(rig, blocks):
    made = rig(SSP())
    with pytest.raises(UserError, match=rf"method.blocks: {blocks} blocks .* of 16 values; choose a smaller divisor"):
        SSP(blocks=blocks).check(made.student, made.teacher, made.plan)
