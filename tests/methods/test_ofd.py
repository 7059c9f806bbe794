"""The overhaul of feature distillation: the authors' numbers, a loop over entries, margins, maps before activations."""

import math

import pytest
import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.methods.ofd import OFD, negative_half_mean, partial_distance
from benchmark.model.embedder import Embedder


def network(widths, backbone: str = "resnet18") -> Embedder:
    return Embedder(backbone, args={"channels": list(widths)})


def prepared(stages, inputs, outputs, norms, weight: float = 1.0) -> OFD:
    """The method for stages of these widths, whose teacher has these (weight, bias) in its last batch-norms."""
    teacher = network(outputs)
    for stage, (scale, bias) in zip(stages, norms, strict=True):
        norm = teacher.backbone.get_submodule(f"layer{stage}.1.bn2")
        norm.weight.data, norm.bias.data = scale, bias
    method = OFD(weight, tuple(stages))
    method.prepare(network(inputs), teacher, None)
    return method.double()


class TestTheAuthorsValues:
    @pytest.mark.parametrize("case", ["single0", "single1"])
    def test_of_one_stage(self, golden, case):
        values = golden("ofd")
        inputs = values.inputs(case)
        student, margin = inputs["student"].requires_grad_(), inputs["margin"]
        loss = partial_distance(student, inputs["teacher"], margin)
        loss.backward()
        values.check(case, loss.detach(), student=student.grad)
        # The reference's constants are in float32.
        ours = negative_half_mean(inputs["bn_bias"], inputs["bn_weight"])
        torch.testing.assert_close(ours, margin, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("case", ["stages0", "stages1"])
    def test_of_three_stages_with_connectors(self, golden, features, case):
        values = golden("ofd")
        inputs = values.inputs(case)
        students = [inputs[f"student{j}"].requires_grad_() for j in range(3)]
        teachers = [inputs[f"teacher{j}"] for j in range(3)]
        batch, stages = len(students[0]), (2, 3, 4)
        norms = [(inputs[f"bn_weight{j}"], inputs[f"bn_bias{j}"]) for j in range(3)]
        method = prepared(stages, (4, 5, 7, 8), (4, 8, 11, 9), norms, weight=batch)
        for j, (convolution, norm) in enumerate(method.connectors):
            assert convolution.weight.shape == inputs[f"conv{j}"].shape
            convolution.weight.data = inputs[f"conv{j}"]
            norm.weight.data, norm.bias.data = inputs[f"connector_bn_weight{j}"], inputs[f"connector_bn_bias{j}"]
            assert norm.eps == values.meta[case]["hp"]["bn_eps"]
        names = [f"stage{stage}:pre" for stage in stages]
        said = (features(taps=dict(zip(names, maps, strict=True))) for maps in (students, teachers))
        loss = method.loss(*said, None)["ofd"]
        loss.backward()
        values.check(case, loss.detach(), **{f"student{j}": students[j].grad for j in range(3)})


def test_equals_a_loop(draw):
    student, teacher, margin = draw((2, 3, 2, 2), (2, 3, 2, 2), (3,))
    margin = -margin.abs()
    total = 0.0
    for b in range(2):
        for c in range(3):
            for i in range(2):
                for j in range(2):
                    target = max(teacher[b, c, i, j].item(), margin[c].item())
                    value = student[b, c, i, j].item()
                    total += (value - target) ** 2 if value > target or target > 0 else 0.0
    assert partial_distance(student, teacher, margin).item() == pytest.approx(total, rel=1e-9)


def test_a_negative_response_asks_only_not_to_be_exceeded():
    margin = torch.tensor([-1.0])
    teacher = torch.tensor([2.0, -0.5, -7.0]).view(3, 1, 1, 1)
    below, above = teacher - 0.5, teacher + 0.5
    assert partial_distance(below, teacher, margin).item() == pytest.approx(0.25)  # where the teacher is positive
    assert partial_distance(above, teacher, margin).item() == pytest.approx(0.5)  # -6.5 is below the margin
    assert partial_distance(teacher, teacher, margin).item() == 0
    assert partial_distance(torch.zeros(1, 1, 1, 1), teacher[2:], margin).item() == pytest.approx(1)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.7, -0.4), (-2.0, 0.5), (1.0, 0.33), (3.0, 0.01)])
def test_a_margin_is_the_mean_of_what_is_negative(mean, deviation):
    margin = negative_half_mean(torch.tensor([mean]).double(), torch.tensor([deviation]).double()).item()
    s, steps = abs(deviation), 200_000
    if 0.5 * math.erfc(mean / s / 2**0.5) <= 1e-3:
        assert margin == pytest.approx(-3 * s)
        return
    low, high = min(mean, 0) - 12 * s, 0.0
    points = [low + (high - low) * (k + 0.5) / steps for k in range(steps)]
    densities = [math.exp(-0.5 * ((x - mean) / s) ** 2) for x in points]
    expected = sum(x * p for x, p in zip(points, densities, strict=True)) / sum(densities)
    assert margin == pytest.approx(expected, rel=1e-6)


def test_margins_of_dead_and_certain_channels_are_finite():
    margins = negative_half_mean(torch.tensor([0.0, 1.0, -1.0, 30.0, -30.0]), torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0]))
    torch.testing.assert_close(margins, torch.tensor([0.0, 0.0, -1.0, -3.0, -30.0]))


def test_margins_come_from_the_main_path_s_last_batch_norm_and_are_kept():
    teacher = network((8, 8, 16, 16), "resnet14t")
    norm = teacher.backbone.layer3[-1].bn3
    nn.init.uniform_(norm.weight, 0.5, 1)
    nn.init.normal_(norm.bias)
    method = OFD(stages=(3,))
    method.prepare(network((4, 4, 4, 4)), teacher, None)
    kept = method.state_dict()["margin3"]
    torch.testing.assert_close(kept, negative_half_mean(norm.bias, norm.weight).detach())
    assert kept.shape == (64,)


def test_a_teacher_without_batch_norm_is_named():
    with pytest.raises(UserError, match="stage 2 of convnext_atto does not end"):
        OFD(stages=(2,)).prepare(network((4, 4, 4, 4)), Embedder("convnext_atto"), None)


def test_maps_of_another_size_are_averaged_and_deeper_stages_count_more(features, draw):
    norms = [(torch.ones(4), torch.zeros(4))] * 2
    method = prepared((1, 2), (4, 4, 4, 4), (4, 4, 4, 4), norms)
    method.connectors[1].load_state_dict(method.connectors[0].state_dict())
    small, large = draw((3, 4, 4, 2), (3, 4, 8, 6))
    averaged = large.view(3, 4, 4, 2, 2, 3).mean(dim=(3, 5))

    def cost(first, second):
        said = (features(taps={"stage1:pre": one, "stage2:pre": two}) for one, two in zip(first, second, strict=True))
        return method.loss(*said, None)["ofd"].item()

    at_once = cost((small, averaged), (small, averaged))
    assert cost((small, large), (small, averaged)) == pytest.approx(at_once, rel=1e-9)
    single = partial_distance(method.connectors[0](small), averaged, method.margin1) / 3
    assert at_once == pytest.approx(1.5 * single.item(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_autocast_stay_near(features, dtype):
    norms = [(torch.ones(8), torch.zeros(8))]
    method = prepared((2,), (4, 8, 4, 4), (4, 8, 4, 4), norms).float()
    student, teacher = ((300 * torch.randn(4, 8, 6, 4)).to(dtype).requires_grad_() for _ in range(2))

    def cost(s, t):
        return method.loss(features(taps={"stage2:pre": s}), features(taps={"stage2:pre": t}), None)["ofd"]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cost(student, teacher.detach())
    loss.backward()
    assert torch.allclose(loss, cost(student.detach().float(), teacher.detach().float()), rtol=1e-2)
    assert student.grad.isfinite().all()


def test_connectors_learn_in_training_from_maps_of_both_signs(rig):
    method = OFD(**OFD.presets["cifar"])
    made = rig(method)
    before = [parameter.clone() for parameter in method.parameters()]
    made.step()
    assert len(before) == 4 * 3
    assert all(not torch.equal(old, new) for old, new in zip(before, method.parameters(), strict=True))
    maps = made.teacher.features(made.batches[0].images).taps
    assert all((maps[f"stage{stage}:pre"] < 0).any() for stage in (1, 2, 3, 4))
