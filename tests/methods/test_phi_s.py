"""PHI-S: a naive loop, the standardization, Hadamard matrices, and the form without a head."""

from types import SimpleNamespace

import pytest
import torch

from benchmark.methods.phi_s import PHIS, hadamard, orthogonal, standardization


def prepared(embeddings, student_dim, plan, **arguments):
    method = PHIS(fit_images=len(embeddings), **arguments)
    method.prepare(SimpleNamespace(dim=student_dim), SimpleNamespace(dim=embeddings.shape[1]), plan)
    method.double()
    for name, value in method.fit(embeddings).items():
        setattr(method, name, value)
    method.fitted = True
    return method


def test_matches_naive_loop(total, draw, plan):
    training, student, teacher = draw((40, 4), (3, 2), (3, 4))
    method = prepared(training, 2, plan, weight=3.0)
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        for channel in range(4):
            row, bias = method.head.weight[channel].tolist(), method.head.bias[channel].item()
            target = sum(method.rotation[channel, d].item() * (t[d] - method.mean[d].item()) for d in range(4))
            expected += (sum(w * x for w, x in zip(row, s, strict=True)) + bias - target) ** 2 / 12
    assert total(method, embedding=(student, teacher)).item() == pytest.approx(3 * expected, rel=1e-9)


@pytest.mark.parametrize("size", [1, 2, 8, 12, 20, 24, 44, 60, 96, 384, 768])
def test_hadamard(size):
    matrix = hadamard(size)
    assert torch.equal(matrix.abs(), torch.ones(size, size).double())
    assert torch.equal(matrix @ matrix.T, size * torch.eye(size).double())


@pytest.mark.parametrize("size", [3, 10, 14, 36])
def test_unknown_hadamard_matrices_are_replaced(size):
    assert hadamard(size) is None
    matrix = orthogonal(size, seed=0)
    assert torch.allclose(matrix @ matrix.T, torch.eye(size).double())
    assert torch.equal(matrix, orthogonal(size, seed=0))


class TestStandardization:
    def test_gives_every_channel_unit_variance_and_keeps_proportions(self, draw):
        rows, scales = draw((50, 8), (8,))
        rows = 5 + rows * (3 * scales).exp()
        mean, rotation = standardization(rows, seed=0)
        standardized = (rows - mean) @ rotation.T
        assert torch.allclose(standardized.mean(dim=0), torch.zeros(8).double(), atol=1e-12)
        assert torch.allclose(standardized.var(dim=0), torch.ones(8).double())
        ratios = torch.pdist(standardized) / torch.pdist(rows)
        assert torch.allclose(ratios, ratios[0])

    def test_fewer_images_than_channels(self, draw):
        rows = draw((5, 16))[0]
        mean, rotation = standardization(rows, seed=0)
        assert torch.allclose(((rows - mean) @ rotation.T).var(dim=0), torch.ones(16).double())

    def test_of_equal_embeddings_is_finite(self):
        assert all(value.isfinite().all() for value in standardization(torch.ones(5, 4), seed=0))


def test_without_a_head_it_is_a_scaled_squared_difference(total, draw, plan):
    training, student, teacher = draw((40, 8), (3, 8), (3, 8))
    method = prepared(training, 8, plan, head=False)
    assert method.aligned
    assert method.needs.equal_embeddings
    scale = method.rotation.square().sum(dim=1)[0]
    expected = scale * (student - teacher).square().mean()
    assert torch.allclose(total(method, embedding=(student, teacher)), expected, rtol=1e-9)
    assert not PHIS().aligned
