"""Problems shared by the tests of retrieval."""

import pytest
import torch

from benchmark.retrieval import Embeddings


@pytest.fixture(scope="session")
def clustered():
    """`clustered(100)`: 100 embeddings around the centers of 40 identities, seen by 5 cameras."""

    def build(count: int, size: int = 24, seed: int = 0) -> Embeddings:
        generator = torch.Generator().manual_seed(seed)
        centers = torch.randn(40, size, generator=torch.Generator().manual_seed(99))
        identities = torch.randint(40, (count,), generator=generator)
        vectors = centers[identities] + torch.randn(count, size, generator=generator)
        return Embeddings(vectors, identities, torch.randint(5, (count,), generator=generator))

    return build
