import pytest
import torch

from benchmark.retrieval.mutual_similarity import MutualSimilarity
from benchmark.retrieval.similarity import CosineSimilarity


@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 100), slice(3, 40), slice(8, 18), slice(99, 100)])
@pytest.mark.parametrize("count", [100, 108])
def test_every_row_is_that_of_the_whole_product(rows: slice, count: int):
    vectors = torch.randn(count, 7, generator=torch.Generator().manual_seed(0))
    expected = CosineSimilarity(vectors, vectors)(rows)
    torch.testing.assert_close(MutualSimilarity(vectors)(rows), expected, rtol=0, atol=1e-6)


def test_fewer_vectors_than_stripes():
    vectors = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    expected = CosineSimilarity(vectors, vectors)(slice(1, 4))
    torch.testing.assert_close(MutualSimilarity(vectors)(slice(1, 4)), expected, rtol=0, atol=1e-6)


def test_only_lists_whose_scores_fit_into_memory(monkeypatch):
    vectors = torch.randn(100, 7)
    monkeypatch.setattr("benchmark.retrieval.chunks.CHUNK_BYTES", 5_000)
    assert MutualSimilarity.suits(vectors)
    assert not MutualSimilarity.suits(torch.randn(101, 7))
    assert not MutualSimilarity.suits(vectors.half())
