"""Retrieval scores in mmengine's validation loop."""

import pytest
import torch

from benchmark.engine.retrieval_metric import RetrievalMetric
from benchmark.retrieval import Embeddings, Protocol, evaluate

QUERIES, GALLERY = 6, 14
PROTOCOL = Protocol(camera_rule=True)


@pytest.fixture
def records() -> list[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    total = QUERIES + GALLERY
    vectors = torch.randn(total, 5, generator=generator)
    identities = torch.arange(total) % 4
    cameras = torch.arange(total) % 3
    return list(zip(torch.arange(total), vectors, identities, cameras, strict=True))


def scores(records: list[tuple[torch.Tensor, ...]]) -> dict[str, float]:
    metric = RetrievalMetric(QUERIES, PROTOCOL)
    for start in range(0, len(records), 4):
        metric.process(None, records[start : start + 4])
    return metric.evaluate(size=len(records))


def test_equals_the_evaluation_of_a_run(records):
    _, vectors, identities, cameras = (torch.stack(column) for column in zip(*records, strict=True))
    query, gallery = (
        Embeddings(vectors[part], identities[part], cameras[part])
        for part in (slice(None, QUERIES), slice(QUERIES, None))
    )
    expected = evaluate(query, gallery, PROTOCOL)
    found = scores(records)
    assert 0 < expected.mAP < 1
    assert found == {"mAP": expected.mAP} | {f"R@{k}": value for k, value in expected.recall.items()}


def test_order_and_padding_of_a_loader_are_undone(records):
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(1)).tolist()
    padded = [records[index] for index in order] + records[:3]
    assert scores(padded) == scores(records)
