"""FitNets: the authors' numbers, loops over entries, embeddings and stages, what could break it."""

import pytest
import torch
from torch import nn

from benchmark.methods.fitnet import FitNet
from benchmark.model.embedder import Embedder


def network(channels: int = 8, **changes) -> Embedder:
    return Embedder("resnet18", **{"args": {"channels": [channels] * 4}, "dim": 16} | changes)


def prepared(method: FitNet, student: Embedder, teacher: Embedder) -> FitNet:
    method.prepare(student, teacher, None)
    return method.double()


def hint(features, method: FitNet, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return method.loss(features(taps={"stage2": student}), features(taps={"stage2": teacher}), None)["fitnet"]


def test_equals_the_authors_values(golden, features):
    values = golden("fitnet")
    for case in values.cases:
        inputs = values.inputs(case)
        student, weight = inputs["student"].requires_grad_(), inputs["weight"]
        if case == "embedding":
            method = prepared(FitNet(weight=1.0), network(dim=16), network(dim=24))
            weight = weight[:, :, 0, 0]
        else:
            method = prepared(FitNet("stages", 1.0, (2,)), network(5), network(8))
        learnt = method.regressors[0].weight
        assert learnt.shape == weight.shape
        learnt.data = weight
        if case == "embedding":
            loss = method.loss(features(embedding=student), features(embedding=inputs["teacher"]), None)["fitnet"]
        else:
            loss = hint(features, method, student, inputs["teacher"])
        loss.backward()
        gradient = learnt.grad[:, :, None, None] if case == "embedding" else learnt.grad
        values.check(case, loss.detach(), student=student.grad, weight=gradient)


def test_equals_a_loop(features, draw):
    student, teacher = draw((3, 2, 2, 3), (3, 4, 2, 3))
    method = prepared(FitNet("stages", 3.0, (2,)), network(2), network(4))
    weight = method.regressors[0].weight.tolist()
    total = 0.0
    for b in range(3):
        for c in range(4):
            for i in range(2):
                for j in range(3):
                    mapped = sum(weight[c][k][0][0] * student[b, k, i, j].item() for k in range(2))
                    total += (mapped - teacher[b, c, i, j].item()) ** 2
    assert hint(features, method, student, teacher).item() == pytest.approx(3 * total / (3 * 4 * 2 * 3), rel=1e-9)


def test_embeddings_of_one_size_are_compared_as_they_are(features, draw):
    student, teacher = draw((5, 16), (5, 16))
    method = prepared(FitNet(), network(), network(12))
    assert method.aligned and not list(method.parameters())

    def cost(s, t):
        return method.loss(features(embedding=s), features(embedding=t), None)["fitnet"]

    rotation = torch.linalg.qr(draw((16, 16), seed=1)[0]).Q
    assert cost(student, teacher).item() == pytest.approx(2 * (student - teacher).square().mean().item(), rel=1e-12)
    assert cost(teacher, teacher).item() == 0
    assert torch.allclose(cost(student @ rotation, teacher @ rotation), cost(student, teacher), rtol=1e-9)
    assert not torch.allclose(cost(student @ rotation, teacher), cost(student, teacher), rtol=1e-2)
    assert not torch.allclose(cost(2 * student, 2 * teacher), cost(student, teacher), rtol=1e-2)


def test_what_is_aligned_is_declared():
    assert FitNet().aligned
    assert not FitNet("stages").aligned
    assert not prepared(FitNet(), network(dim=16), network(dim=24)).aligned


def test_maps_of_other_sizes_are_averaged_and_stages_add_up(features, draw):
    student, teacher = draw((2, 6, 8, 4), (2, 6, 4, 2))
    method = prepared(FitNet("stages", 1.0, (1, 2)), network(6), network(6))
    for regressor in method.regressors:
        nn.init.dirac_(regressor.weight)
    terms = method.loss(
        features(taps={"stage1": student, "stage2": teacher}),
        features(taps={"stage1": teacher, "stage2": student}),
        None,
    )
    averaged = student.view(2, 6, 4, 2, 2, 2).mean(dim=(3, 5))
    assert terms["fitnet"].item() == pytest.approx(2 * (averaged - teacher).square().mean().item(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_finite(features, dtype):
    student, teacher = ((300 * torch.randn(4, 16)).to(dtype).requires_grad_() for _ in range(2))
    method = FitNet()
    method.prepare(network(), network(), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method.loss(features(embedding=student), features(embedding=teacher.detach()), None)["fitnet"]
    loss.backward()
    exact = 2 * (student.detach().float() - teacher.detach().float()).square().mean()
    assert torch.allclose(loss, exact, rtol=1e-5)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("method", [FitNet("stages"), FitNet(**FitNet.presets["published"])], ids=["stages", "preset"])
def test_hints_learn_in_training(rig, method):
    made = rig(method)
    before = [weight.clone() for weight in method.parameters()]
    made.step()
    assert len(before) == len(method.stages)
    assert all(not torch.equal(old, new) for old, new in zip(before, method.parameters(), strict=True))
