"""DEAP: its terms, its lasso over columns and rows, its structural steps, its end."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.compression.compactor import RowSite
from benchmark.compression.lasso import auto_lasso, edit_gradients, group_norms, lasso_gradient
from benchmark.errors import UserError
from benchmark.losses import kl_divergence
from benchmark.method import Budget
from benchmark.methods.deap import DEAP
from benchmark.methods.deap.column_site import ColumnSite
from benchmark.methods.mkd import MKD
from benchmark.model import cost
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_student, save_student
from benchmark.recipe import compose

WIDTHS = [8, 8, 8, 8, 16, 16, 16, 16]
"""Columns of the first and rows of the second pruner in each of four bottlenecks."""
SMALL = {"layers": [1, 1, 1, 1]}
NETWORKS = {
    "bottleneck": {},
    "deeper": {"backbone": "resnet26", "args": {"channels": [8, 8, 16, 16]}},
    "basic": {"backbone": "resnet18", "args": SMALL | {"channels": [8, 8, 16, 16]}},
    "grouped": {
        "backbone": "resnext50_32x4d",
        "args": SMALL | {"channels": [16, 16, 32, 32], "cardinality": 4, "base_width": 8},
    },
    "squeeze_excite": {"backbone": "seresnet50", "args": SMALL | {"channels": [8, 8, 16, 16]}},
    "blur_pool": {"backbone": "resnetblur50", "args": SMALL | {"channels": [8, 8, 16, 16]}, "neck": "bn"},
    "average_pool": {"backbone": "resnetaa50", "args": SMALL | {"channels": [8, 8, 16, 16]}, "last_stride": 1},
}


def groups(place) -> Tensor:
    """The columns or rows, in the first dimension."""
    return place.weight.data.movedim(place.dim, 0)


def norms(place) -> Tensor:
    return groups(place).flatten(1).norm(dim=1)


def places(made) -> list:
    return made.method.sites(made.student)


def disturb(made) -> None:
    generator = torch.Generator().manual_seed(1)
    for place in places(made):
        place.weight.data += 0.1 * torch.randn(place.weight.shape, generator=generator)


def vanish(made, gone: dict[int, list[int]], size: float = 1e-8) -> None:
    """Scale columns or rows, given by place, to this norm."""
    for i, index in gone.items():
        place = places(made)[i]
        for entry in index:
            groups(place)[entry] *= size / norms(place)[entry]


def remove(made, share: float) -> None:
    """Let this share of every pruner's columns or rows all but vanish."""
    generator = torch.Generator().manual_seed(2)
    chosen = [torch.randperm(p.width, generator=generator)[: int(share * p.width)].tolist() for p in places(made)]
    vanish(made, dict(enumerate(chosen)))


def deploy(made, path) -> Embedder:
    compact = fold_batchnorm(made.method.compact(made.student), made.batches[0].images)
    save_student(compact, path, (32, 32))
    return load_student(path)


def both(made) -> tuple:
    made.student.train()
    student = made.student.features(made.batches[0].images)
    with torch.no_grad():
        return student, made.teacher.features(made.batches[0].images)


def residual_sums(network: Embedder, images: Tensor) -> list[Tensor]:
    """Pooled inputs of the last activation of each block, by running the blocks' own parts."""
    found = []
    hooks = [
        block.act3.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0].clone().mean((2, 3))))
        for block in (network.backbone.get_submodule(f"layer{i}.0") for i in range(1, 5))
    ]
    network.features(images)
    for hook in hooks:
        hook.remove()
    return found


def test_terms_are_the_papers(rig):
    made = rig(DEAP(kl_weight=0.7, temperature=3.0, feature_weight=0.25, mkd_weight=2.0))
    disturb(made)
    state = copy.deepcopy(made.student.state_dict())
    student, teacher = both(made)
    terms = made.method.loss(student, teacher, made.batches[0])
    made.student.load_state_dict(state)
    ours, theirs = (residual_sums(network, made.batches[0].images) for network in (made.student, made.teacher))
    distance = sum((s - t).square().sum(dim=1).sqrt().mean() for s, t in zip(ours, theirs, strict=True))
    assert len(ours) == 4
    assert min(float(s.min()) for s in theirs) < 0  # before the activation
    assert torch.allclose(terms["deap_feature"], 0.25 * distance, rtol=1e-5)
    assert torch.allclose(terms["deap_kl"], 0.7 * kl_divergence(student.logits, teacher.logits, 3.0))
    relations = MKD(alpha=10.0, beta=1.0, stages=(3, 4), power=2, distance="cosine").loss(student, teacher, None)
    assert all(torch.allclose(terms[f"deap_{name}"], 2 * term) for name, term in relations.items())
    assert terms.keys() == {"deap_kl", "deap_feature", "deap_mkd_own", "deap_mkd_other"}


def test_a_student_equal_to_its_teacher_costs_nothing(rig):
    made = rig(DEAP())
    made.teacher.load_state_dict(
        {k: v for k, v in made.student.state_dict().items() if "pruner" not in k}, strict=False
    )
    plain = {k.replace(".bn2.norm.", ".bn2."): v for k, v in made.student.state_dict().items() if "pactor" not in k}
    made.teacher.load_state_dict({k: v for k, v in plain.items() if "pruner" not in k})
    with torch.no_grad():
        student, teacher = (network.eval().features(made.batches[0].images) for network in (made.student, made.teacher))
        terms = made.method.loss(student, teacher, made.batches[0])
    assert all(float(term) < 1e-4 for term in terms.values())


def test_pruners_start_as_the_identity(rig):
    made = rig(DEAP())
    with torch.no_grad():
        before = made.student.eval()(made.batches[0].images)
        for place in places(made):
            assert torch.equal(place.weight[:, :, 0, 0], torch.eye(place.width))
        merged = made.method.merged_copy(made.student, WIDTHS)
        assert torch.allclose(merged(made.batches[0].images), before, rtol=0, atol=1e-4)


def test_the_lasso_of_columns_equals_a_loop():
    weight = torch.randn(3, 4, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    expected = sum(sum(float(weight.detach()[o, i]) ** 2 for o in range(3)) ** 0.5 for i in range(4))
    value = group_norms(weight, dim=1).sum()
    assert value.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(value, weight)
    assert torch.allclose(lasso_gradient(weight.detach(), dim=1), gradient, rtol=1e-12)
    assert not torch.allclose(group_norms(weight).sum(), value)


def test_columns_and_rows_are_edited_along_their_own_dimension():
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(4, 3, 1, 1, generator=generator)) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    edit_gradients(weights, 0.3, masks=[torch.tensor([1.0, 0, 1]), torch.tensor([0.0, 1, 1, 1])], dims=[1, 0])
    for weight, dim, low in zip(weights, (1, 0), (1, 0), strict=True):
        pull = 0.3 * weight.detach() / weight.detach().norm(dim=1 - dim, keepdim=True)
        expected = 1 + pull
        expected.movedim(dim, 0)[low] = pull.movedim(dim, 0)[low]
        assert torch.allclose(weight.grad, expected)


def test_gradients_are_those_of_the_loss_with_the_lasso_in_it(rig):
    made = rig(DEAP(lasso=0.3))
    disturb(made)
    weights = [place.weight for place in places(made)]
    assert [place.dim for place in places(made)] == [1, 0] * 4
    made.distiller.train()
    state = copy.deepcopy(made.distiller.state_dict())
    total = sum(made.distiller(*made.batches[0], mode="loss").values())
    lasso = sum(group_norms(place.weight, place.dim).sum() for place in places(made))
    expected = torch.autograd.grad(total + 0.3 * lasso, weights)
    made.distiller.load_state_dict(state)
    sum(made.distiller(*made.batches[0], mode="loss").values()).backward()
    made.method.after_backward(made.student)
    for weight, gradient in zip(weights, expected, strict=True):
        assert torch.allclose(weight.grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_column_rests_at_zero_against_a_weaker_objective(rig, scheduled, nesterov):
    """Half the lasso pulls it away, at a learning rate that does not decay: below the threshold nevertheless."""
    plan = scheduled(np.full(200, 0.2))
    made = rig(DEAP(lasso=0.02), plan=plan)
    weights = [place.weight for place in places(made)]
    optimizer = torch.optim.SGD(weights, lr=0.2, momentum=0.9, nesterov=nesterov)
    for _ in range(200):
        for place in places(made):
            place.weight.grad = torch.zeros_like(place.weight)
            place.weight.grad[0] = -0.01 / place.width**0.5  # of a row the first only, of a column one entry
        made.method.after_backward(made.student)
        optimizer.step()
    rest = torch.cat([norms(place) for place in places(made)])
    assert float(rest.max()) == pytest.approx(0.2 * 0.01, rel=0.05)  # balanced at half of a step's length
    assert float(rest.max()) < 0.2 * 0.02


def test_the_automatic_lasso_follows_from_the_schedule(rig):
    made = rig(DEAP(vanish_at=0.7))
    assert made.method.strength == auto_lasso([0.02] * 14, made.plan.momentum, made.plan.weight_decay)
    assert rig(DEAP(lasso=0.01), optimizer="adamw").method.strength == 0.01


def test_the_published_lambda_is_what_vanish_at_stands_for(rig):
    """VeRi-776 by CDD's schedule: 393 steps an epoch, 0.01 after ten epochs of warming up."""
    rates = np.repeat([0.01 * min(1, 0.1 + 0.09 * epoch) for epoch in range(90)], 393)
    assert auto_lasso(rates[: round(0.14 * len(rates))], 0.9, 5e-4) == pytest.approx(0.003, rel=0.1)


def test_published_constants_are_a_preset(rig):
    recipe = compose("deap", "veri776", settings=["method.preset=published"])
    made = rig(DEAP(**recipe.method.arguments))
    assert (made.method.strength, made.method.threshold, made.method.budget) == (0.003, 1e-3, None)
    vanish(made, {0: [1], 1: [2]})
    assert made.end_epoch() == []  # channels are removed once, at the end
    compact = made.method.compact(made.student)
    assert (compact.backbone.layer1[0].conv1.out_channels, compact.backbone.layer1[0].conv3.in_channels) == (7, 7)


def test_only_one_budget_can_be_given():
    with pytest.raises(UserError, match=r"deap: target_macs .* and target_params .* are both set"):
        DEAP(target_macs=0.5, target_params=0.5)
    assert DEAP(target_params=0.5).budget == Budget("parameters", 0.5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_deployed_file_equals_the_trained_student(rig, tmp_path, name):
    """Trained a little, compressed in training and once more at the end, saved, loaded."""
    made = rig(DEAP(lasso=0.01, threshold=1e-5), **NETWORKS[name])
    made.step(0)
    disturb(made)
    remove(made, share=0.3)
    before = made.embed()
    assert made.end_epoch()
    assert torch.allclose(made.embed(), before, rtol=0, atol=1e-5 * float(before.abs().max()))
    made.step(1)
    remove(made, share=0.6)
    before = made.embed()
    widths = [int((norms(place) >= 1e-5).sum()) for place in places(made)]
    made.method._remove_rows(made.student)
    report = made.method.report(made.student)

    deployed = deploy(made, tmp_path / "student.pt")

    with torch.no_grad():
        after = deployed(made.batches[0].images)
    assert torch.allclose(after, before, rtol=0, atol=1e-5 * float(before.abs().max()))
    assert float(before.std()) > 0.1
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    size = cost.count(deployed, (32, 32))
    assert report == {"channels": sum(widths), "parameters": size.parameters, "macs": size.macs}


def test_merging_is_exact(rig):
    made = rig(DEAP())
    made.step(0)
    disturb(made)
    remove(made, share=0.4)
    made.end_epoch()
    student = made.student.double().eval()
    maps = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before = student.backbone.forward_features(maps)
        made.method.compact(student)
        after = student.backbone.forward_features(maps)
    assert float(before.std()) > 0.1
    assert torch.allclose(after, before, rtol=0, atol=1e-11)
    block = student.backbone.layer3[0]
    assert [type(block.act1), type(block.bn2)] == [nn.ReLU, nn.Identity]
    assert block.conv1.out_channels == block.conv2.in_channels < 16


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_structural_step_narrows_everything_and_changes_no_output(rig, optimizer):
    made = rig(DEAP(lasso=0.01), optimizer=optimizer)
    for number in range(2):
        made.step(number)
    gone = {0: [1, 6], 3: [2], 4: [0, 3, 15], 5: [7]}
    vanish(made, gone)
    before = made.embed()
    state = copy.deepcopy(made.wrapper.optimizer.state_dict()["state"])
    number_of = {id(p): i for i, p in enumerate(made.wrapper.optimizer.param_groups[0]["params"])}

    changes = made.end_epoch()

    assert torch.allclose(made.embed(), before, rtol=0, atol=1e-5 * float(before.abs().max()))
    assert made.method.structure() == {"widths": [6, 8, 8, 7, 13, 15, 16, 16]}
    for i, place in enumerate(places(made)):
        kept = torch.tensor([entry for entry in range(WIDTHS[i]) if entry not in gone.get(i, [])])
        block = place.block
        expected = [(block.conv1.weight, 0), (block.bn1.weight, 0), (block.bn1.bias, 0), (place.weight, 1)]
        if isinstance(place, RowSite):
            expected = [(place.weight, 0), (block.conv3.weight, 1)]
        else:
            assert len(block.bn1.running_mean) == block.bn1.num_features == block.conv1.out_channels == len(kept)
        for parameter, dim in expected:
            assert parameter.shape[dim] == len(kept)
            new, old = made.wrapper.optimizer.state[parameter], state[number_of[id(parameter)]]
            moments = [key for key, value in old.items() if value is not None and value.dim() == parameter.dim()]
            assert moments
            assert all(torch.equal(new[key], old[key].index_select(dim, kept)) for key in moments)
    assert len(changes) == 2 * 4 + 2 * 2
    made.step(2)


def test_the_structure_can_be_repeated_on_a_fresh_student(rig):
    made, fresh = (rig(DEAP(), seed=seed) for seed in (0, 1))
    made.step(0)
    remove(made, share=0.4)
    assert made.end_epoch()
    made.step(1)
    fresh.teacher.load_state_dict(made.teacher.state_dict())
    fresh.method.restore(fresh.student, made.method.structure())
    fresh.student.load_state_dict(made.student.state_dict(), strict=True)
    fresh.method.load_state_dict(made.method.state_dict(), strict=True)
    fresh.wrapper.optimizer.load_state_dict(copy.deepcopy(made.wrapper.optimizer.state_dict()))
    for number in (2, 3):
        ours, theirs = fresh.step(number), made.step(number)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert fresh.method.report(fresh.student) == made.method.report(made.student)


def test_a_met_budget_ends_compression(rig, tmp_path):
    made = rig(DEAP(target_macs=0.9, lasso=0.3))
    for rank, i in enumerate((7, 6, 5, 0, 1, 2, 3, 4)):
        vanish(made, {i: list(range(WIDTHS[i] - 2))}, size=1e-7 * (1 + rank))
    assert made.end_epoch()
    assert not made.method.compressing
    widths = made.method.structure()["widths"]
    assert widths[4:] == [16, 2, 2, 2]  # of those below the threshold the smallest go, and no more than it takes
    weights = [place.weight for place in places(made)]
    made.distiller.train()
    sum(made.distiller(*made.batches[0], mode="loss").values()).backward()
    before = [weight.grad.clone() for weight in weights]
    made.method.after_backward(made.student)
    assert all(torch.equal(weight.grad, gradient) for weight, gradient in zip(weights, before, strict=True))
    vanish(made, {0: [1]})
    assert made.end_epoch(2) == []
    whole = cost.count(fold_batchnorm(made.teacher, made.batches[0].images), (32, 32)).macs
    assert 0.85 * whole < cost.count(deploy(made, tmp_path / "student.pt"), (32, 32)).macs <= 0.9 * whole


def test_the_smallest_network_is_what_remains_when_all_vanish(rig, tmp_path):
    made = rig(DEAP())
    with torch.no_grad():
        least = cost.count(fold_batchnorm(made.method.minimal_student(made.student), made.batches[0].images), (32, 32))
    vanish(made, {i: list(range(width - 1)) for i, width in enumerate(WIDTHS)})
    assert cost.count(deploy(made, tmp_path / "student.pt"), (32, 32)) == least


def test_two_pruners_where_both_can_be_folded(rig):
    kinds = {
        name: [type(p) for p in places(rig(DEAP(), **NETWORKS[name]))] for name in ("bottleneck", "grouped", "basic")
    }
    assert kinds["bottleneck"] == [ColumnSite, RowSite] * 4
    assert kinds["grouped"] == kinds["basic"] == [RowSite] * 4


def test_student_and_teacher_must_be_alike(rig):
    made = rig(DEAP())
    other = Embedder("resnet14t", {"channels": [8, 8, 16, 8], "stem_width": 8}, identities=40)
    with pytest.raises(UserError, match="deap: the student must start with the teacher's architecture"):
        DEAP().check(other, made.teacher, made.plan)
