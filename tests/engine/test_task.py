"""The loss of the retrieval task."""

import math

import pytest
import torch
from pytorch_metric_learning import losses, miners
from torch.nn import functional as F

from benchmark.engine.task import TaskLoss, with_margin
from benchmark.errors import UserError
from benchmark.losses import batch_hard_triplet
from benchmark.model.features import Features
from benchmark.recipe import Margin, MetricLoss, Task, Triplet

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
NO_TRIPLET = Triplet(weight=0.0)


def features(dtype: torch.dtype = torch.float32) -> Features:
    generator = torch.Generator().manual_seed(0)
    pooled, embedding, logits = (torch.randn(6, size, generator=generator).to(dtype) for size in (8, 4, 3))
    return Features(pooled, embedding, logits, {})


def test_identity_term_is_cross_entropy_with_smoothing():
    terms = TaskLoss(Task(label_smoothing=0.2))(features(), LABELS)
    log = F.log_softmax(features().logits, dim=1)
    expected = -(0.8 * log[range(6), LABELS] + 0.2 * log.mean(dim=1)).mean()
    assert torch.allclose(terms["identity"], expected)


@pytest.mark.parametrize("feature", ["pooled", "embedding"])
@pytest.mark.parametrize("normalize", [False, True])
def test_triplet_term(feature, normalize):
    triplet = Triplet(weight=2.0, margin=0.7, feature=feature, normalize=normalize)
    terms = TaskLoss(Task(triplet=triplet))(features(), LABELS)
    expected = 2 * batch_hard_triplet(getattr(features(), feature), LABELS, 0.7, normalize)
    assert expected > 0
    assert torch.equal(terms["triplet"], expected)


def test_first_epoch_of_the_triplet_term():
    loss = TaskLoss(Task(triplet=Triplet(from_epoch=3)))
    present = []
    for loss.epoch in (1, 2, 3, 4):
        present.append("triplet" in loss(features(), LABELS))
    assert present == [False, False, True, True]


def test_triplet_weight_of_zero():
    assert set(TaskLoss(Task(triplet=Triplet(weight=0.0)))(features(), LABELS)) == {"identity"}


def test_bfloat16_features():
    terms = TaskLoss(Task())(features(torch.bfloat16), LABELS)
    assert all(term.dtype == torch.float32 for term in terms.values())


def naive_margin(cosine: float, own: bool, kind: str, m: float) -> float:
    if kind == "circle":
        return max(1 + m - cosine, 0) * (cosine - 1 + m) if own else max(cosine + m, 0) * (cosine - m)
    if not own:
        return cosine
    return cosine - m if kind == "cosface" else math.cos(min(math.acos(cosine) + m, math.pi))


@pytest.mark.parametrize("kind", ["arcface", "cosface", "circle"])
def test_margins(kind):
    cosines = torch.tensor([[0.9, -0.3, 0.1], [-0.95, 0.2, 0.5], [0.0, 0.7, -0.6]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 2])
    expected = [
        [naive_margin(cosine, column == label, kind, 0.35) for column, cosine in enumerate(row)]
        for row, label in zip(cosines.tolist(), labels.tolist(), strict=True)
    ]
    changed = with_margin(cosines, labels, Margin(type=kind, margin=0.35))
    torch.testing.assert_close(changed, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["arcface", "cosface", "circle"])
def test_margin_has_finite_gradients_at_the_limits(kind):
    cosines = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], requires_grad=True)
    with_margin(cosines, torch.tensor([0, 0]), Margin(type=kind, margin=0.5)).sum().backward()
    assert cosines.grad.isfinite().all()


def test_margin_is_in_units_of_the_cosine():
    task = Task(margin=Margin(type="cosface", margin=0.2), triplet=NO_TRIPLET, label_smoothing=0.0, identity=3.0)
    logits = 16 * (features().logits / 10).clamp(-1, 1)
    outputs = Features(features().pooled, features().embedding, logits, {})
    lowered = logits - 16 * 0.2 * F.one_hot(LABELS, 3)
    terms = TaskLoss(task, scale=16.0)(outputs, LABELS)
    torch.testing.assert_close(terms["identity"], 3 * F.cross_entropy(lowered, LABELS))


def test_metric_loss_and_miner():
    spec = MetricLoss(type="MultiSimilarityLoss", alpha=3.0, weight=0.5, miner={"type": "MultiSimilarityMiner"})
    terms = TaskLoss(Task(identity=0.0, triplet=NO_TRIPLET, losses=(spec,)))(features(), LABELS)
    embedding = features().embedding
    pairs = miners.MultiSimilarityMiner()(embedding, LABELS)
    expected = losses.MultiSimilarityLoss(alpha=3.0)(embedding, LABELS, pairs)
    assert terms.keys() == {"MultiSimilarityLoss"}
    torch.testing.assert_close(terms["MultiSimilarityLoss"], 0.5 * expected)


def test_proxies_are_parameters_of_the_right_size():
    spec = MetricLoss(type="ProxyAnchorLoss", feature="pooled", margin=0.2)
    task = TaskLoss(Task(losses=(spec, spec)), identities=3, pooled=8, embedding=4)
    assert [tuple(p.shape) for p in task.parameters()] == [(3, 8), (3, 8)]
    terms = task(features(), LABELS)
    assert set(terms) == {"identity", "triplet", "ProxyAnchorLoss", "ProxyAnchorLoss_2"}
    sum(terms.values()).backward()
    assert all(p.grad.any() for p in task.parameters())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "ProxyAnchorLos"}, "losses has no 'ProxyAnchorLos'; did you mean 'ProxyAnchorLoss'"),
        ({"type": "MultipleLosses"}, "losses has no 'MultipleLosses'"),
        ({"type": "ProxyAnchorLoss", "margins": 1}, "ProxyAnchorLoss has no argument 'margins'; did you mean 'margin'"),
        ({"type": "TripletMarginLoss", "miner": {"type": "Hard"}}, "miners has no 'Hard'"),
        ({"type": "ProxyAnchorLoss", "num_classes": 5}, "ProxyAnchorLoss cannot be created with"),
    ],
)
def test_mistakes(spec, message):
    with pytest.raises(UserError, match=message):
        TaskLoss(Task(losses=(MetricLoss(**spec),)), identities=3, pooled=8, embedding=4)(features(), LABELS)
