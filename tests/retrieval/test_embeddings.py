"""Validation of embeddings."""

import numpy as np
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


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["0001", "0002", "1", "2"],
            "have the value '0001', which is not a number: number the labels of query and gall",
        ),
        ([1, 2, None, 4], "have the value 'None', which is not a number"),
        ([[1], [2, 3], [4], [5]], "cannot be converted to an array: all rows must have the same length"),
        ([2**70, 1, 2, 3], "have values that do not fit into 64 bits with a sign"),
        (np.array([2**63, 1, 2, 3], np.uint64), "have values that do not fit into 64 bits with a sign"),
        (np.array([1, 2, 3, 4], "datetime64[s]"), r"are datetime64\[s\], which is a time: convert them to numbers"),
        (np.array([1, 2, 3, 4], "timedelta64[s]"), r"are timedelta64\[s\], which is a time"),
    ],
)
def test_labels_that_are_not_integers(labels, message: str):
    with pytest.raises(ValueError, match=f"^identities {message}"):
        Embeddings(torch.ones(4, 3), labels)
    with pytest.raises(ValueError, match=f"^cameras {message}"):
        Embeddings(torch.ones(4, 3), LABELS, labels)


@pytest.mark.parametrize("dtype", [object, ">i8", "u1"])
def test_labels_of_any_integer_type(dtype):
    labels = np.array([3, 1, 2, 0], dtype)
    assert Embeddings(np.ones((4, 3), ">f4"), labels[::-1]).identities.tolist() == [0, 2, 1, 3]


def test_unknown_cameras_are_left_out():
    with pytest.raises(ValueError, match="give all cameras, or None instead of the list if they are unknown"):
        Embeddings(torch.ones(4, 3), LABELS, [None] * 4)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([["a", "b"]] * 4, "vectors have the value 'a', which is not a number$"),
        (np.ones((4, 3), np.longdouble), "vectors are .*, which torch does not have: convert them to float32"),
        (torch.ones(4, 3).to_sparse(), "vectors are sparse: convert them with to_dense"),
    ],
)
def test_vectors_that_torch_cannot_use(vectors, message: str):
    with pytest.raises(ValueError, match=message):
        Embeddings(vectors, LABELS)
