"""Validation of embeddings."""

import pytest
import torch

from benchmark.retrieval import Embeddings

LABELS = torch.arange(4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_accepts_floating_point(dtype: torch.dtype):
    assert len(Embeddings(torch.ones(4, 3, dtype=dtype), LABELS, LABELS)) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_rejects_vectors_without_finite_norm(value: float):
    vectors = torch.ones(4, 3)
    vectors[2, 1] = value
    with pytest.raises(ValueError, match=r"row 2 .*\(1 of 4 rows do\)"):
        Embeddings(vectors, LABELS, LABELS)


def test_rejects_nonzero_vectors_of_vanishing_norm():
    vectors = torch.ones(4, 3)
    vectors[1] = 0
    assert Embeddings(vectors, LABELS).scale[1].isfinite()
    vectors[2] = 1e-30
    with pytest.raises(ValueError, match="row 2 of the vectors is nonzero, but its norm is below 1e-12"):
        Embeddings(vectors, LABELS)


@pytest.mark.parametrize("vectors", [torch.ones(4), torch.ones(4, 3, 2), torch.ones(0, 3), torch.ones(4, 3).long()])
def test_rejects_other_vectors(vectors: torch.Tensor):
    with pytest.raises(ValueError, match=r"vectors must be \(N, D\) floating point"):
        Embeddings(vectors, LABELS, LABELS)


@pytest.mark.parametrize("labels", [torch.arange(3), torch.zeros(4, 1).long(), torch.zeros(4), torch.ones(4).bool()])
def test_rejects_other_labels(labels: torch.Tensor):
    with pytest.raises(ValueError, match=r"identities must be \(4,\) integers"):
        Embeddings(torch.ones(4, 3), labels, LABELS)
    with pytest.raises(ValueError, match=r"cameras must be \(4,\) integers"):
        Embeddings(torch.ones(4, 3), LABELS, labels)
