"""Network slimming: its lasso, the removed channels, its threshold and its settings."""

from dataclasses import replace

import pytest
import torch
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LinearRegression
from torch import nn

from benchmark import Progress, UserError
from benchmark.compression.lasso import auto_lasso
from benchmark.methods.slimming import Slimming
from benchmark.model.residual_blocks import deployed_size, inner_widths, narrowed_copy

BOTTLENECK = {"backbone": "resnet26t", "args": {"channels": [16, 16, 24, 32], "stem_width": 8}}
BASIC = {"backbone": "resnet18d", "args": {"channels": [8, 12, 16, 24], "stem_width": 8}}


def scales(network) -> list[torch.Tensor]:
    return [inner.scale.detach().clone() for inner in inner_widths(network)]


def progress(epoch: int) -> Progress:
    return Progress(epoch=epoch, epochs=4, step=5 * epoch)


@pytest.mark.parametrize("network", [BOTTLENECK, BASIC], ids=["bottleneck", "basic"])
def test_lasso_is_added_to_the_gradient_of_inner_scales_until_channels_are_removed(rig, network):
    made = rig(Slimming(lasso=0.25), **network)
    with torch.no_grad():
        inner_widths(made.student)[0].scale[:2] = torch.tensor([-0.5, 0.0])

    def added() -> dict[str, torch.Tensor]:
        for parameter in made.student.parameters():
            parameter.grad = torch.ones_like(parameter)
        made.method.after_backward(made.student)
        return {name: parameter.grad - 1 for name, parameter in made.student.named_parameters()}

    inner = {f"backbone.{each.block_name}.{each.norm_name}.weight" for each in inner_widths(made.student)}
    parameters = dict(made.student.named_parameters())
    for name, addition in added().items():
        assert torch.equal(addition, 0.25 * parameters[name].sign() if name in inner else 0 * addition)
    assert {-0.25, 0.0, 0.25} <= set(added()[min(inner)].tolist())
    made.method.after_epoch(made.student, progress(2))
    assert not any(addition.any() for addition in added().values())


@pytest.mark.parametrize("epoch", [2, 3])
def test_auto_lasso_moves_a_free_scale_to_zero_when_channels_are_removed(rig, epoch):
    made = rig(Slimming(prune_at=epoch / 4))
    plan = made.plan
    gamma = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([gamma], lr=1, momentum=plan.momentum, weight_decay=plan.weight_decay)
    path = []
    for rate in map(plan.learning_rate, range(5 * epoch)):
        optimizer.param_groups[0]["lr"] = rate
        gamma.grad = made.method.strength * gamma.detach().sign()
        optimizer.step()
        path.append(gamma.item())
    assert abs(path[-1]) < 0.02
    assert min(path[:-1]) > 0.05
    assert made.method.after_epoch(made.student, progress(epoch - 1)) == []
    assert made.method.after_epoch(made.student, progress(epoch))


def test_lasso_as_a_number_supports_any_optimizer(rig):
    assert rig(Slimming(lasso=1e-4), optimizer="adamw").method.strength == 1e-4


@pytest.mark.parametrize(("network", "kind"), [(BOTTLENECK, "macs"), (BASIC, "parameters")], ids=["macs", "parameters"])
def test_removes_the_smallest_scales_until_the_budget_is_met(rig, network, kind):
    arguments = {"target_macs": 0.75} if kind == "macs" else {"target_macs": None, "target_params": 0.75}
    made = rig(Slimming(**arguments), **network)
    image_size = made.plan.image_size
    with torch.no_grad():  # scales may be negative, and a whole layer may be small
        inner_widths(made.student)[1].scale.mul_(-1e-3)
    before = scales(made.student)
    assert made.method.after_epoch(made.student, progress(1)) == []
    assert made.method.after_epoch(made.student, progress(2))
    after = scales(made.student)
    assert len(after[1]) == 1
    removed = []
    for old, new in zip(before, after, strict=True):
        kept = set(new.tolist())
        removed += [abs(x) for x in old.tolist() if x not in kept]
        assert old.abs().max() == new.abs().max()
        assert torch.equal(torch.tensor([x for x in old.tolist() if x in kept]), new), "the order is kept"
    remaining = [abs(x) for layer in after for x in layer.tolist() if abs(x) != layer.abs().max()]
    assert max(removed) < min(remaining), "there is one threshold for all layers"
    allowed = 0.75 * getattr(deployed_size(made.teacher, image_size), kind)
    assert made.method.report(made.student)[kind] <= allowed
    widths = [len(layer) for layer in after]
    last = next(i for i, old in enumerate(before) if max(removed) in old.abs().tolist())
    widths[last] += 1
    assert getattr(deployed_size(narrowed_copy(made.teacher, widths), image_size), kind) > allowed
    assert made.method.after_epoch(made.student, progress(3)) == [], "channels are removed once"


@pytest.mark.parametrize("threshold", [0.3, "mean", "median", "1.5*mean", "0.5 * median"])
def test_threshold_equals_that_of_scikit_learn(rig, threshold):
    made = rig(Slimming(target_macs=None, threshold=threshold), **BOTTLENECK)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for inner in inner_widths(made.student):
            inner.scale.copy_(torch.randn(inner.width, generator=generator))
    before = scales(made.student)
    lengths = [len(scale) for scale in before]
    estimator = LinearRegression()
    estimator.coef_ = torch.cat(before).abs().double().numpy()
    selected = torch.from_numpy(SelectFromModel(estimator, threshold=threshold, prefit=True).get_support())
    for scale, mask in zip(before, selected.split(lengths), strict=True):
        mask[scale.abs().argmax()] = True  # the largest channel of a layer remains
    expected = [scale[mask] for scale, mask in zip(before, selected.split(lengths), strict=True)]
    made.method.after_epoch(made.student, progress(2))
    assert all(torch.equal(a, b) for a, b in zip(scales(made.student), expected, strict=True))
    assert sum(map(len, expected)) < sum(lengths)


@pytest.mark.parametrize("threshold", ["low", "2*", "mean*2", "-1*mean"])
def test_invalid_threshold(tiny, threshold):
    with pytest.raises(UserError, match=r"method\.threshold in --set"):
        tiny("slimming", f"method.threshold={threshold}", "method.target_macs=null")


def test_training_of_one_epoch_removes_channels_at_its_end(rig, plan):
    made = rig(Slimming(target_macs=0.8), plan=replace(plan, epochs=1), **BASIC)
    assert made.method.strength == auto_lasso([0.02] * plan.steps, plan.momentum, plan.weight_decay)
    assert made.end_epoch(1)
    reached = deployed_size(made.student, (32, 32)).macs / deployed_size(made.teacher, (32, 32)).macs
    assert 0.7 < reached <= 0.8


@pytest.mark.parametrize("arguments", [{"target_macs": None}, {"threshold": 0.1}])
def test_needs_exactly_one_target(arguments):
    with pytest.raises(UserError, match="slimming: set exactly one of target_macs"):
        Slimming(**arguments)
