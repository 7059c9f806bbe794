import pytest
import torch

from benchmark.retrieval import Embeddings
from benchmark.retrieval._similarity import CosineSimilarity
from benchmark.retrieval.reranking import MutualSimilarity


def cosine(query: torch.Tensor, gallery: torch.Tensor) -> CosineSimilarity:
    return CosineSimilarity(*(Embeddings(vectors, torch.zeros(len(vectors)).long()) for vectors in (query, gallery)))


def mutual(vectors: torch.Tensor) -> MutualSimilarity:
    return MutualSimilarity(cosine(vectors, vectors), workers=2)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 100), slice(3, 40), slice(8, 18), slice(99, 100)])
@pytest.mark.parametrize("count", [100, 108])
def test_every_row_is_that_of_the_whole_product(rows: slice, count: int):
    vectors = torch.randn(count, 7, generator=torch.Generator().manual_seed(0))
    expected = cosine(vectors, vectors)(rows)
    torch.testing.assert_close(mutual(vectors)(rows), expected, rtol=0, atol=1e-6)


def test_fewer_vectors_than_stripes():
    vectors = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    expected = cosine(vectors, vectors)(slice(1, 4))
    torch.testing.assert_close(mutual(vectors)(slice(1, 4)), expected, rtol=0, atol=1e-6)


def test_lists_that_are_not_one_or_whose_scores_are_too_many(monkeypatch):
    vectors = torch.randn(107, 7)
    monkeypatch.setattr("benchmark.retrieval._chunks.CHUNK_BYTES", 10_000)
    assert MutualSimilarity.suits(cosine(vectors, vectors))
    assert not MutualSimilarity.suits(cosine(vectors, vectors.clone()))
    assert not MutualSimilarity.suits(cosine(torch.randn(108, 7), torch.randn(108, 7)))
    more = torch.randn(108, 7)
    assert not MutualSimilarity.suits(cosine(more, more))


def test_a_list_that_is_scaled_after_the_product_is_not_symmetric(monkeypatch):
    vectors = torch.randn(100, 7)
    monkeypatch.setattr("benchmark.retrieval._similarity.CHUNK_BYTES", 2_000)
    assert not MutualSimilarity.suits(cosine(vectors, vectors))
    unit = torch.nn.functional.normalize(vectors)
    assert MutualSimilarity.suits(cosine(unit, unit))
