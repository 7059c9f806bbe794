"""Uniform width: which factor, which filters, and what is left at the end."""

import pytest
import torch

from benchmark.errors import UserError
from benchmark.methods.uniform import Uniform
from benchmark.model.cost import count
from benchmark.model.fold import fold_batchnorm
from benchmark.model.residual_blocks import deployed_size, inner_widths, narrowed_copy
from benchmark.model.serialize import load_student, save_student
from benchmark.registry import METHODS

BOTTLENECK = {"backbone": "resnet26t", "args": {"channels": [16, 16, 24, 32], "stem_width": 8}}
BASIC = {"backbone": "resnet18d", "args": {"channels": [8, 12, 16, 24], "stem_width": 8}}


def widths(network) -> list[int]:
    return [inner.width for inner in inner_widths(network)]


@pytest.mark.parametrize("network", [BOTTLENECK, BASIC], ids=["bottleneck", "basic"])
@pytest.mark.parametrize("kind", ["macs", "parameters"])
@pytest.mark.parametrize("target", [0.5, 0.8, 1.0])
def test_the_largest_factor_within_the_budget(rig, network, kind, target):
    given = {"target_macs": target} if kind == "macs" else {"target_macs": None, "target_params": target}
    made = rig(Uniform(**given), **network)
    full, image = widths(made.teacher), made.plan.image_size
    reference = getattr(deployed_size(made.teacher, image), kind)
    scaled = [[max(1, round(width * kept / max(full))) for width in full] for kept in range(1, max(full) + 1)]
    found = scaled.index(widths(made.student))

    def cost(widths: list[int]) -> int:
        return getattr(deployed_size(narrowed_copy(made.teacher, widths), image), kind)

    assert cost(scaled[found]) <= target * reference
    assert scaled[found] == full if target == 1.0 else cost(scaled[found + 1]) > target * reference
    report = made.method.report(made.student)
    assert report[kind] == getattr(deployed_size(made.student, image), kind)
    assert report["channels"] == sum(scaled[found])


def test_the_filters_with_the_largest_norms_stay_by_all_their_inputs(rig, monkeypatch):
    wide = {}
    original = Uniform.prepare

    def remember(self, student, teacher, plan):
        wide.update({name: value.clone() for name, value in student.state_dict().items()})
        original(self, student, teacher, plan)

    monkeypatch.setattr(Uniform, "prepare", remember)
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


def test_any_start_is_narrowed_to_the_same_shapes(rig):
    """So that a checkpoint fits when training resumes."""
    first, second = (rig(Uniform(target_macs=0.6), seed=seed, **BOTTLENECK) for seed in (0, 1))
    second.student.load_state_dict(first.student.state_dict(), strict=True)
    assert torch.equal(second.embed(), first.embed())


def test_a_target_that_no_factor_meets_leaves_one_channel_each(rig):
    made = rig(Uniform(target_macs=0.01), **BASIC)
    assert set(widths(made.student)) == {1}
    assert made.step()
    minimal = made.method.minimal_student(rig(Uniform(), **BASIC).student)
    assert widths(minimal) == widths(made.student)


def test_a_distillation_trains_what_is_left_and_the_file_holds_it(rig, tmp_path):
    made = rig(METHODS.find("uniform+kd")(uniform={"target_macs": 0.6}), **BOTTLENECK)
    assert made.method.budget.target == 0.6
    assert all(torch.isfinite(made.step(number)["loss_kd"]) for number in range(3))
    optimised = sum(p.numel() for group in made.wrapper.optimizer.param_groups for p in group["params"])
    assert optimised == sum(p.numel() for p in made.student.parameters())
    before = made.embed()
    compact = fold_batchnorm(made.method.compact(made.student), made.batches[0].images)
    compact.head = None
    save_student(compact, tmp_path / "student.pt", (32, 32))
    deployed = load_student(tmp_path / "student.pt")
    with torch.no_grad():
        assert torch.allclose(deployed(made.batches[0].images), before, rtol=0, atol=1e-5 * float(before.abs().max()))
    reached = count(deployed, (32, 32)).macs / deployed_size(made.teacher, (32, 32)).macs
    assert 0.55 < reached <= 0.6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target_params": 0.5}, "uniform: target_macs .* and target_params .* are both set"),
        ({"target_macs": None}, "uniform: target_macs and target_params are both null"),
    ],
)
def test_exactly_one_target(given, message):
    with pytest.raises(UserError, match=message):
        Uniform(**given)
