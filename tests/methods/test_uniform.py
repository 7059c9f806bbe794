"""Uniform width: the width factor, the selected filters, and the combination with a distillation."""

import pytest
import torch

from benchmark import METHODS, UserError
from benchmark.methods.uniform import Uniform, largest_filters
from benchmark.model.cost import count
from benchmark.model.residual_blocks import deployed_size, inner_widths, narrowed_copy

BOTTLENECK = {"backbone": "resnet26t", "args": {"channels": [16, 16, 24, 32], "stem_width": 8}}
BASIC = {"backbone": "resnet18d", "args": {"channels": [8, 12, 16, 24], "stem_width": 8}}


def widths(network) -> list[int]:
    return [inner.width for inner in inner_widths(network)]


@pytest.mark.parametrize(
    ("network", "kind", "target"),
    [
        pytest.param(BOTTLENECK, "macs", 0.5, id="bottleneck"),
        pytest.param(BOTTLENECK, "parameters", 0.8, id="bottleneck-parameters"),
        pytest.param(BASIC, "parameters", 0.5, id="basic-parameters"),
        pytest.param(BASIC, "macs", 1.0, id="basic-unpruned"),
    ],
)
def test_largest_factor_within_the_budget(rig, network, kind, target):
    arguments = {"target_macs": target} if kind == "macs" else {"target_macs": None, "target_params": target}
    made = rig(Uniform(**arguments), **network)
    full, image_size = widths(made.teacher), made.plan.image_size
    candidates = [[max(1, round(width * kept / max(full))) for width in full] for kept in range(1, max(full) + 1)]
    chosen = candidates.index(widths(made.student))

    def cost(widths: list[int]) -> int:
        return getattr(deployed_size(narrowed_copy(made.teacher, widths), image_size), kind)

    allowed = target * cost(full)
    assert cost(candidates[chosen]) <= allowed
    assert candidates[chosen] == full if target == 1.0 else cost(candidates[chosen + 1]) > allowed
    report = made.method.report(made.student)
    assert report[kind] == getattr(deployed_size(made.student, image_size), kind)
    assert report["channels"] == sum(candidates[chosen])


def test_keeps_the_filters_with_the_largest_norms(rig, monkeypatch):
    """The norm of a filter includes the inputs that are removed."""
    wide = {}
    original = Uniform.prepare

    def prepare(self, student, teacher, plan):
        wide.update({name: value.clone() for name, value in student.state_dict().items()})
        original(self, student, teacher, plan)

    monkeypatch.setattr(Uniform, "prepare", prepare)
    made = rig(Uniform(target_macs=0.6), **BOTTLENECK)
    kept = {}
    for inner in inner_widths(made.student):
        path = f"backbone.{inner.block_name}."
        filters = wide[f"{path}{inner.conv_name}.weight"]
        norms = [sum(abs(x) for x in one.flatten().tolist()) for one in filters]
        rows = sorted(sorted(range(len(norms)), key=lambda row, norms=norms: -norms[row])[: inner.width])
        kept[path, inner.next_conv_name] = rows
        assert 0 < len(rows) < len(norms)
        inputs = kept.get((path, inner.conv_name))
        expected = filters[rows] if inputs is None else filters[rows][:, inputs]
        assert torch.equal(inner.conv.weight, expected)
        for field in ("weight", "bias", "running_mean", "running_var"):
            assert torch.equal(getattr(inner.norm, field), wide[f"{path}{inner.norm_name}.{field}"][rows])


def test_keeps_the_lower_of_equal_filters():
    assert largest_filters(torch.ones(100, 2, 1, 1), 3).tolist() == [0, 1, 2]


def test_with_distillation(rig, tmp_path):
    made = rig(METHODS.find("uniform+kd")(uniform={"target_macs": 0.6}), **BOTTLENECK)
    assert made.method.budget.target == 0.6
    assert all(torch.isfinite(made.step(number)["loss_kd"]) for number in range(3))
    optimized = sum(p.numel() for group in made.wrapper.optimizer.param_groups for p in group["params"])
    assert optimized == sum(p.numel() for p in made.student.parameters()), "the optimizer only has the narrow network"
    deployed = made.deploy(tmp_path / "student.pt")
    assert 0.55 < count(deployed, (32, 32)).macs / deployed_size(made.teacher, (32, 32)).macs <= 0.6


def test_no_target():
    with pytest.raises(UserError, match="uniform: target_macs and target_params are both null; set one"):
        Uniform(target_macs=None)
