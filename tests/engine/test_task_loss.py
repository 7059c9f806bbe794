"""The task's own loss."""

import pytest
import torch
from torch.nn import functional as F

from benchmark.engine.distiller import TaskLoss
from benchmark.losses import batch_hard_triplet
from benchmark.model.features import Features
from benchmark.recipe import Task, Triplet

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def features() -> Features:
    generator = torch.Generator().manual_seed(0)
    pooled, embedding, logits = (torch.randn(6, size, generator=generator) for size in (8, 4, 3))
    return Features(pooled, embedding, logits, {})


def test_identity_is_cross_entropy_with_smoothing():
    terms = TaskLoss(Task(label_smoothing=0.2))(features(), LABELS)
    log = F.log_softmax(features().logits, dim=1)
    expected = -(0.8 * log[range(6), LABELS] + 0.2 * log.mean(dim=1)).mean()
    assert torch.allclose(terms["identity"], expected)


@pytest.mark.parametrize("feature", ["pooled", "embedding"])
@pytest.mark.parametrize("normalize", [False, True])
def test_triplet_reads_the_feature_it_is_told_to(feature, normalize):
    triplet = Triplet(weight=2.0, margin=0.7, feature=feature, normalize=normalize)
    terms = TaskLoss(Task(triplet=triplet))(features(), LABELS)
    expected = 2 * batch_hard_triplet(getattr(features(), feature), LABELS, 0.7, normalize)
    assert expected > 0
    assert torch.equal(terms["triplet"], expected)


def test_triplet_joins_in_its_epoch():
    loss = TaskLoss(Task(triplet=Triplet(from_epoch=3)))
    present = []
    for loss.epoch in (1, 2, 3, 4):
        present.append("triplet" in loss(features(), LABELS))
    assert present == [False, False, True, True]


def test_no_weight_is_no_triplet():
    assert set(TaskLoss(Task(triplet=Triplet(weight=0.0)))(features(), LABELS)) == {"identity"}


def test_short_logits_are_compared_in_float32():
    short = features()
    short = Features(short.pooled.bfloat16(), short.embedding.bfloat16(), short.logits.bfloat16(), {})
    assert all(term.dtype == torch.float32 for term in TaskLoss(Task())(short, LABELS).values())
