"""Retrieval scores in mmengine's validation loop."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from benchmark.errors import UserError
from benchmark.evaluation import TestSet


class RetrievalMetric(BaseMetric):
    """mAP and Recall@K of a test set's images, all of which are embedded in validation.

    One record per image, by its position: whatever order or padding a loader adds is undone.
    """

    default_prefix = ""  # the names stand alone in metrics.jsonl

    def __init__(self, test: TestSet) -> None:
        super().__init__()
        self.test = test

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        self.results.extend(tuple(sample) for sample in data_samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        if not results:
            raise UserError(f"{self.test.dataset.folder}: none of the test images can be read")
        unique = {int(index): vector for index, vector in results}
        positions = sorted(unique)
        scores = self.test.score_all(torch.stack([unique[index] for index in positions]), torch.tensor(positions))
        return {"mAP": scores.mAP, **{f"R@{k}": value for k, value in scores.recall.items()}}
