"""The plan of a training, for methods that prepare themselves for it."""

from functools import cache

import numpy as np

from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.method import Plan
from benchmark.recipe import Recipe


def training_plan(recipe: Recipe, dataset: RetrievalDataset, steps_per_epoch: int) -> Plan:
    """Return the plan of a recipe's training on a dataset. Learning rates are computed when they are first needed."""
    settings = recipe.train

    @cache
    def rates() -> np.ndarray:
        from benchmark.engine.optimization import learning_rates  # imports mmengine

        return learning_rates(settings.optimizer, settings.schedule, steps_per_epoch)

    return Plan.from_recipe(
        recipe,
        labels=np.array([dataset.labels[sample.identity] for sample in dataset.train]),
        identities=len(dataset.labels),
        steps=settings.schedule.epochs * steps_per_epoch,
        learning_rate=lambda step: float(rates()[step]),
    )
