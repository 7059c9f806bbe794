"""Cosine similarity of a list with itself."""

import pytest
import torch

from benchmark.retrieval import Embeddings
from benchmark.retrieval._similarity import CosineSimilarity, MutualSimilarity


def cosine(query: torch.Tensor, gallery: torch.Tensor) -> CosineSimilarity:
    return CosineSimilarity(*(Embeddings(vectors, torch.zeros(len(vectors)).long()) for vectors in (query, gallery)))


@pytest.mark.parametrize(
    ("count", "rows"),
    [
        *((count, rows) for count in (100, 108) for rows in (slice(0, 1), slice(0, 100), slice(3, 40), slice(8, 18))),
        (100, slice(99, 100)),
        (5, slice(1, 4)),  # fewer vectors than stripes
    ],
)
def test_rows_equal_those_of_the_whole_product(count: int, rows: slice):
    vectors = torch.randn(count, 7, generator=torch.Generator().manual_seed(0))
    similarity = cosine(vectors, vectors)
    mutual = MutualSimilarity(similarity, workers=2)
    torch.testing.assert_close(mutual(rows), similarity(rows), rtol=0, atol=1e-6)


def test_suits_one_list_whose_scores_fit_into_memory(monkeypatch):
    vectors, more = torch.randn(107, 7), torch.randn(108, 7)
    monkeypatch.setattr("benchmark.retrieval._chunks.CHUNK_BYTES", 10_000)
    assert MutualSimilarity.is_suitable(cosine(vectors, vectors))
    assert not MutualSimilarity.is_suitable(cosine(vectors, vectors.clone()))
    assert not MutualSimilarity.is_suitable(cosine(more, more))


def test_scaling_after_the_product_is_not_symmetric(monkeypatch):
    vectors = torch.randn(100, 7)
    unit = torch.nn.functional.normalize(vectors)
    monkeypatch.setattr("benchmark.retrieval._chunks.CHUNK_BYTES", 2_000)
    scaled = cosine(vectors, vectors)
    unscaled = cosine(unit, unit)
    assert not scaled.symmetric and unscaled.symmetric
    monkeypatch.undo()
    assert not MutualSimilarity.is_suitable(scaled) and MutualSimilarity.is_suitable(unscaled)
