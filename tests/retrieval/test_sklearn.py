"""Agreement with scikit-learn's average precision, which is the rectangular one."""

import pytest
import torch
from sklearn.metrics import average_precision_score

from benchmark.retrieval import Embeddings, Protocol, evaluate


def test_average_precision_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    query, gallery = (
        Embeddings(
            torch.randn(n, 8, generator=generator),
            torch.randint(0, 5, (n,), generator=generator),
            torch.zeros(n, dtype=torch.int64),
        )
        for n in (20, 60)
    )
    scores = evaluate(query, gallery, Protocol(camera_rule=False))
    cosine = torch.nn.functional.cosine_similarity(query.vectors[:, None], gallery.vectors[None], dim=2)
    for i in range(20):
        expected = average_precision_score(gallery.identities == query.identities[i], cosine[i])
        assert scores.average_precision[i].item() == pytest.approx(expected, abs=1e-6)
