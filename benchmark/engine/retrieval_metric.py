"""Retrieval scores in mmengine's validation loop."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from benchmark.retrieval import Embeddings, Protocol, evaluate


class RetrievalMetric(BaseMetric):
    """mAP and Recall@K of a validation set that lists the queries first and the gallery after them.

    One record per image, by its position: whatever order or padding a loader adds is undone.
    """

    default_prefix = ""  # the names stand alone in metrics.jsonl

    def __init__(self, queries: int, protocol: Protocol) -> None:
        super().__init__()
        self.queries = queries
        self.protocol = protocol

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        self.results.extend(tuple(sample) for sample in data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        unique = {int(index): record for index, *record in results}
        in_order = (unique[index] for index in sorted(unique))
        vectors, identities, cameras = (torch.stack(column) for column in zip(*in_order, strict=True))
        query, gallery = (
            Embeddings(vectors[part], identities[part], cameras[part])
            for part in (slice(None, self.queries), slice(self.queries, None))
        )
        scores = evaluate(query, gallery, self.protocol)
        return {"mAP": scores.mAP, **{f"R@{k}": value for k, value in scores.recall.items()}}
