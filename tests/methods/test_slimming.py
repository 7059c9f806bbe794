"""Network slimming: the lasso, which channels go, what training and deployment see of it."""

import copy

import pytest
import torch
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LinearRegression
from torch import nn

from benchmark.errors import UserError
from benchmark.method import Progress
from benchmark.methods.slimming import Slimming
from benchmark.model.cost import count
from benchmark.model.fold import fold_batchnorm
from benchmark.model.residual_blocks import deployed_size, inner_widths, narrowed_copy
from benchmark.model.serialize import load_student, save_student

BOTTLENECK = {"backbone": "resnet26t", "args": {"channels": [16, 16, 24, 32], "stem_width": 8}}
BASIC = {"backbone": "resnet18d", "args": {"channels": [8, 12, 16, 24], "stem_width": 8}}
BLUR = {"backbone": "resnetblur50", "args": {"layers": [1, 2, 2, 2], "channels": [16, 16, 24, 32], "stem_width": 8}}


def places(network) -> list:
    return inner_widths(network)


def scales(network) -> list[torch.Tensor]:
    return [place.norm.weight.detach().clone() for place in places(network)]


def progress(epoch: int) -> Progress:
    return Progress(epoch=epoch, epochs=4, step=5 * epoch)


@pytest.mark.parametrize("network", [BOTTLENECK, BASIC], ids=["bottleneck", "basic"])
def test_the_lasso_is_in_the_gradient_of_inner_scales_alone_until_channels_go(rig, network):
    made = rig(Slimming(lasso=0.25), **network)
    with torch.no_grad():
        places(made.student)[0].norm.weight[:2] = torch.tensor([-0.5, 0.0])

    def added() -> dict[str, torch.Tensor]:
        for parameter in made.student.parameters():
            parameter.grad = torch.ones_like(parameter)
        made.method.after_backward(made.student)
        return {name: parameter.grad - 1 for name, parameter in made.student.named_parameters()}

    inner = {f"backbone.{place.block_name}.{place.norm_name}.weight" for place in places(made.student)}
    parameters = dict(made.student.named_parameters())
    for name, addition in added().items():
        assert torch.equal(addition, 0.25 * parameters[name].sign() if name in inner else 0 * addition)
    assert {-0.25, 0.0, 0.25} <= set(added()[min(inner)].tolist())
    made.method.after_epoch(made.student, progress(2))
    assert not any(addition.any() for addition in added().values())


def test_auto_brings_a_free_scale_to_zero_when_channels_go(rig):
    made = rig(Slimming())
    plan = made.plan
    gamma = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([gamma], lr=1, momentum=plan.momentum, weight_decay=plan.weight_decay)
    path = []
    for rate in map(plan.learning_rate, range(plan.steps // 2)):
        optimizer.param_groups[0]["lr"] = rate
        gamma.grad = made.method.strength * gamma.detach().sign()
        optimizer.step()
        path.append(gamma.item())
    assert abs(path[-1]) < 0.02
    assert min(path[:-1]) > 0.05


def test_a_number_is_for_any_optimizer(rig):
    assert rig(Slimming(lasso=1e-4), optimizer="adamw").method.strength == 1e-4


@pytest.mark.parametrize("network", [BOTTLENECK, BASIC], ids=["bottleneck", "basic"])
@pytest.mark.parametrize("kind", ["macs", "parameters"])
def test_the_smallest_scales_of_all_go_until_the_budget_is_met_and_no_further(rig, network, kind):
    given = {"target_macs": 0.75} if kind == "macs" else {"target_macs": None, "target_params": 0.75}
    made = rig(Slimming(**given), **network)
    before, image = scales(made.student), made.plan.image_size
    with torch.no_grad():  # one sign is as good as the other, and a whole layer may be small
        places(made.student)[1].norm.weight.mul_(-1e-3)
        before = scales(made.student)
    assert made.method.after_epoch(made.student, progress(1)) == []
    assert made.method.after_epoch(made.student, progress(2))
    after = scales(made.student)
    assert len(after[1]) == 1
    gone = []
    for old, new in zip(before, after, strict=True):
        kept = set(new.tolist())
        gone += [abs(x) for x in old.tolist() if x not in kept]
        assert old.abs().max() == new.abs().max()
        assert torch.equal(torch.tensor([x for x in old.tolist() if x in kept]), new), "in their order"
    left = [abs(x) for layer in after for x in layer.tolist() if abs(x) != layer.abs().max()]
    assert max(gone) < min(left), "one threshold for all layers"
    allowed = 0.75 * getattr(deployed_size(made.teacher, image), kind)
    assert made.method.report(made.student)[kind] <= allowed
    widths = [len(layer) for layer in after]
    last = next(i for i, old in enumerate(before) if max(gone) in old.abs().tolist())
    widths[last] += 1
    assert getattr(deployed_size(narrowed_copy(made.teacher, widths), image), kind) > allowed
    assert made.method.after_epoch(made.student, progress(3)) == [], "once"


@pytest.mark.parametrize("threshold", [0.3, "mean", "median", "1.5*mean", "0.5 * median"])
def test_a_threshold_as_scikit_learn_writes_it(rig, threshold):
    """The channels that scikit-learn's own selector would leave out go, but for the largest of a layer."""
    made = rig(Slimming(target_macs=None, threshold=threshold), **BOTTLENECK)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for place in places(made.student):
            place.norm.weight.copy_(torch.randn(place.width, generator=generator))
    before = scales(made.student)
    together = torch.cat(before).abs().double().numpy()
    estimator = LinearRegression()
    estimator.coef_ = together
    selected = torch.from_numpy(SelectFromModel(estimator, threshold=threshold, prefit=True).get_support())
    for scale, chosen in zip(before, selected.split([len(scale) for scale in before]), strict=True):
        chosen[scale.abs().argmax()] = True
    made.method.after_epoch(made.student, progress(2))
    expected = [scale[mask] for scale, mask in zip(before, selected.split([len(s) for s in before]), strict=True)]
    for left, right in zip(scales(made.student), expected, strict=True):
        assert torch.equal(left, right)
    assert sum(map(len, expected)) < len(together)


@pytest.mark.parametrize("threshold", ["low", "2*", "mean*2", "-1*mean"])
def test_a_threshold_that_means_nothing(tiny, threshold):
    with pytest.raises(UserError, match=r"method\.threshold in --set"):
        tiny("slimming", f"method.threshold={threshold}", "method.target_macs=null")


def test_a_target_out_of_reach_leaves_one_channel_each(rig):
    made = rig(Slimming(target_macs=0.01), **BASIC)
    made.end_epoch(2)
    assert {place.width for place in places(made.student)} == {1}
    minimal = made.method.minimal_student(rig(Slimming(), **BASIC).student)
    assert [place.width for place in places(minimal)] == [place.width for place in places(made.student)]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resume_crosses_the_removal_to_the_same_bits(rig, optimizer):
    made, fresh = (
        rig(Slimming(lasso=0.01, target_macs=0.75), optimizer=optimizer, seed=seed, **BOTTLENECK) for seed in (0, 1)
    )
    made.step(0)
    made.end_epoch(2)
    made.step(1)
    for parameter in made.student.parameters():
        state = made.wrapper.optimizer.state[parameter]
        moments = [value for value in state.values() if value.dim()]
        assert moments
        assert all(value.shape == parameter.shape for value in moments)
    fresh.teacher.load_state_dict(made.teacher.state_dict())
    fresh.method.restore(fresh.student, made.method.structure())
    fresh.student.load_state_dict(made.student.state_dict(), strict=True)
    fresh.method.load_state_dict(made.method.state_dict(), strict=True)
    fresh.wrapper.optimizer.load_state_dict(copy.deepcopy(made.wrapper.optimizer.state_dict()))
    assert fresh.method.report(fresh.student) == made.method.report(made.student)
    for number in (2, 3):
        ours, theirs = fresh.step(number), made.step(number)
        assert all(torch.equal(ours[term], theirs[term]) for term in theirs)
    assert fresh.end_epoch(3) == made.end_epoch(3) == [], "it knows that the channels are gone"
    assert all(torch.equal(v, made.student.state_dict()[k]) for k, v in fresh.student.state_dict().items())


@pytest.mark.parametrize("network", [BOTTLENECK, BASIC, BLUR], ids=["bottleneck", "basic", "blur"])
def test_the_deployed_file_equals_the_trained_student_and_meets_the_budget(rig, tmp_path, network):
    made = rig(Slimming(target_macs=0.75), **network)
    made.step(0)
    made.end_epoch(2)
    made.step(1)
    before = made.embed()
    compact = fold_batchnorm(made.method.compact(made.student), made.batches[0].images)
    compact.head = None
    save_student(compact, tmp_path / "student.pt", (32, 32))
    deployed = load_student(tmp_path / "student.pt")
    with torch.no_grad():
        assert torch.allclose(deployed(made.batches[0].images), before, rtol=0, atol=1e-5 * float(before.abs().max()))
    reached = count(deployed, (32, 32)).macs / deployed_size(made.teacher, (32, 32)).macs
    assert 0.65 < reached <= 0.75


def test_channels_go_at_the_end_where_there_is_one_epoch_only(tiny, train_tiny, tmp_path):
    recipe = tiny("slimming", "train.schedule.epochs=1", "method.target_macs=0.8")
    trained, teacher = train_tiny(recipe, tmp_path)
    reached = deployed_size(trained.student, (32, 32)).macs / deployed_size(teacher, (32, 32)).macs
    assert 0.7 < reached <= 0.8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target_params": 0.5}, "slimming: target_macs .* and target_params .* are both set"),
        ({"target_macs": None}, "slimming: set exactly one of target_macs"),
        ({"threshold": 0.1}, "slimming: set exactly one of target_macs"),
    ],
)
def test_exactly_one_target(given, message):
    with pytest.raises(UserError, match=message):
        Slimming(**given)
