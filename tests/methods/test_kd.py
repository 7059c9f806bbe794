"""KD as a method; its equation is tested with the shared divergence."""

import torch

from benchmark.losses import kl_divergence
from benchmark.methods.kd import KD
from benchmark.methods.none import NoDistillation
from benchmark.model.features import Features


def features(logits: torch.Tensor) -> Features:
    return Features(pooled=torch.empty(0), embedding=torch.empty(0), logits=logits)


def test_weight_and_temperature_reach_the_loss():
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    loss = KD(temperature=3.0, weight=0.5).loss(features(student), features(teacher), None)
    assert list(loss) == ["kd"]
    assert torch.equal(loss["kd"], 0.5 * kl_divergence(student, teacher, 3.0))


def test_equals_the_authors_values(golden):
    values = golden("kd")
    for case in values.cases:
        inputs = values.inputs(case)
        student = inputs["student"].requires_grad_()
        loss = KD(values.meta[case]["hp"]["T"]).loss(features(student), features(inputs["teacher"]), None)["kd"]
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)


def test_without_distillation_nothing_is_added():
    assert not NoDistillation.needs.teacher
    assert NoDistillation().loss(features(torch.randn(4, 5)), None, None) == {}
