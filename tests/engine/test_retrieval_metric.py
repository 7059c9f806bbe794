"""Retrieval scores in mmengine's validation loop."""

from dataclasses import replace

import pytest
import torch

from benchmark import evaluation
from benchmark.data.loaders import Loading
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine.hooks import RetrievalMetric
from benchmark.retrieval import Protocol


@pytest.fixture(params=[False, True], ids=["query and gallery", "one list"])
def test_set(request, data_root) -> evaluation.TestSet:
    dataset = Glyphs(data_root, train_identities=40, test_identities=20)
    protocol = Protocol(camera_rule=False, query_in_gallery=True) if request.param else replace(dataset.protocol)
    return evaluation.TestSet(dataset, Loading((8, 8)), 16, protocol)


@pytest.fixture
def records(test_set) -> list[tuple[torch.Tensor, torch.Tensor]]:
    total = len(test_set.images.identities)
    return list(zip(torch.arange(total), torch.randn(total, 5, generator=torch.manual_seed(0)), strict=True))


def scores(test_set, records) -> dict[str, float]:
    metric = RetrievalMetric(test_set)
    for start in range(0, len(records), 4):
        metric.process(None, records[start : start + 4])
    return metric.evaluate(size=len(records))


def test_equals_the_evaluation_of_a_run(test_set, records):
    def network(images):
        return next(parts)

    embeddings = []
    for split in ("query", "gallery"):
        positions = torch.cat([batch.indices for batch in test_set.loader(split)])
        vectors = torch.stack([records[position][1] for position in positions.tolist()])
        parts = iter(vectors.split(16))
        embeddings.append(test_set.embed(network, split))
    expected = test_set.score(*embeddings)
    assert 0 < expected.mAP < 1
    assert scores(test_set, records) == {"mAP": expected.mAP} | {
        f"R@{k}": value for k, value in expected.recall.items()
    }


def test_order_and_padding_of_the_loader_do_not_matter(test_set, records):
    order = torch.randperm(len(records), generator=torch.manual_seed(1)).tolist()
    padded = [records[index] for index in order] + records[:3]
    assert scores(test_set, padded) == scores(test_set, records)
