"""Overhaul of feature distillation: a naive loop over entries, margins, map sizes, and maps before activations."""

import math

import pytest
import torch
from torch import nn

from benchmark import Embedder, UserError
from benchmark.methods.ofd import OFD, negative_half_mean, partial_distance


def network(channels, backbone="resnet18"):
    return Embedder(backbone, args={"channels": list(channels)})


class TestPartialDistance:
    def test_matches_naive_loop(self, draw):
        student, teacher, margin = draw((2, 3, 2, 2), (2, 3, 2, 2), (3,))
        margin = -margin.abs()
        expected = 0.0
        for b in range(2):
            for c in range(3):
                for i in range(2):
                    for j in range(2):
                        target = max(teacher[b, c, i, j].item(), margin[c].item())
                        value = student[b, c, i, j].item()
                        expected += (value - target) ** 2 if value > target or target > 0 else 0.0
        assert partial_distance(student, teacher, margin).item() == pytest.approx(expected, rel=1e-9)

    def test_negative_response_of_teacher_is_an_upper_bound(self):
        margin = torch.tensor([-1.0])
        teacher = torch.tensor([2.0, -0.5, -7.0]).view(3, 1, 1)
        below, above = teacher - 0.5, teacher + 0.5
        assert partial_distance(below, teacher, margin).item() == pytest.approx(0.25)  # where the teacher is positive
        assert partial_distance(above, teacher, margin).item() == pytest.approx(0.5)  # -6.5 is below the margin
        assert partial_distance(teacher, teacher, margin).item() == 0
        assert partial_distance(torch.zeros(1, 1, 1, 1), teacher[2:], margin).item() == pytest.approx(1)


class TestMargin:
    @pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.7, -0.4), (-2.0, 0.5), (1.0, 0.33), (3.0, 0.01)])
    def test_is_the_mean_of_the_negative_half(self, mean, deviation):
        margin = negative_half_mean(torch.tensor([mean]).double(), torch.tensor([deviation]).double()).item()
        s = abs(deviation)
        if 0.5 * math.erfc(mean / s / 2**0.5) <= 1e-3:
            assert margin == pytest.approx(-3 * s)
            return
        low = min(mean, 0) - 12 * s  # numerical integration from here to 0
        points = low - low * (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        densities = (-0.5 * ((points - mean) / s) ** 2).exp()
        expected = (points * densities).sum() / densities.sum()
        assert margin == pytest.approx(expected.item(), rel=1e-6)

    def test_of_dead_and_certain_channels_is_finite(self):
        margins = negative_half_mean(torch.tensor([0.0, 1.0, -1.0, 30.0, -30.0]), torch.tensor([0.0, 0.0, 0.0, 1, 1]))
        torch.testing.assert_close(margins, torch.tensor([0.0, 0.0, -1.0, -3.0, -30.0]))

    def test_comes_from_the_last_batch_norm_of_the_main_path(self):
        teacher = network((8, 8, 16, 16), "resnet14t")
        norm = teacher.backbone.layer3[-1].bn3
        nn.init.uniform_(norm.weight, 0.5, 1)
        nn.init.normal_(norm.bias)
        method = OFD(stages=(3,))
        method.prepare(network((4, 4, 4, 4)), teacher, None)
        margin = method.state_dict()["margin3"]
        torch.testing.assert_close(margin, negative_half_mean(norm.bias, norm.weight).detach())
        assert margin.shape == (64,)

    def test_rejects_a_teacher_without_batch_norm(self, plan):
        with pytest.raises(UserError, match="stage 2 of convnext_atto does not end with a batch norm"):
            OFD(stages=(2,)).check(network((4, 4, 4, 4)), Embedder("convnext_atto"), plan)


def test_deeper_stages_weigh_more_and_larger_maps_are_pooled(total, draw):
    method = OFD(1.0, (1, 2))
    method.prepare(network((4, 4, 4, 4)), network((4, 4, 4, 4)), None)
    method.double().connectors[1].load_state_dict(method.connectors[0].state_dict())
    small, large = draw((3, 4, 4, 2), (3, 4, 8, 6))
    pooled = large.view(3, 4, 4, 2, 2, 3).mean(dim=(3, 5))
    first, second = "stage1:pre", "stage2:pre"
    expected = total(method, **{first: (small, small), second: (pooled, pooled)})
    assert total(method, **{first: (small, small), second: (large, pooled)}).item() == pytest.approx(
        expected.item(), rel=1e-9
    )
    both = total(method, **{first: (small, pooled), second: (small, pooled)})
    single = partial_distance(method.connectors[0](small), pooled, method.margin1) / 3
    assert both.item() == pytest.approx(1.5 * single.item(), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_close_to_float32(total, dtype):
    method = OFD(1.0, (2,))
    method.prepare(network((4, 8, 4, 4)), network((4, 8, 4, 4)), None)
    student, teacher = ((300 * torch.randn(4, 8, 6, 4)).to(dtype) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = total(method, **{"stage2:pre": (student.requires_grad_(), teacher)})
    loss.backward()
    exact = total(method, **{"stage2:pre": (student.detach().float(), teacher.float())})
    assert torch.allclose(loss, exact, rtol=1e-2)
    assert student.grad.isfinite().all()


def test_maps_before_activation_have_negative_values(rig):
    running = rig(OFD())
    maps = running.teacher.features(running.batches[0].images).taps
    assert all((maps[f"stage{stage}:pre"] < 0).any() for stage in (1, 2, 3, 4))
