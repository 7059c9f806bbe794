"""KD and the baseline without distillation."""

import torch

from benchmark.losses import kl_divergence
from benchmark.methods.kd import KD
from benchmark.methods.none import NoDistillation


def test_is_the_weighted_divergence(terms):
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    loss = terms(KD(temperature=3.0, weight=0.5), logits=(student, teacher))
    assert list(loss) == ["kd"]
    assert torch.equal(loss["kd"], 0.5 * kl_divergence(student, teacher, 3.0))


def test_none_adds_no_term(features):
    assert not NoDistillation.needs.teacher
    assert NoDistillation().loss(features(logits=torch.randn(4, 5)), None, None) == {}
