"""DEAP: its loss terms, its lasso on columns and rows, structural steps and its preset.

`test_compression` has what DEAP has in common with other methods.
"""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark import Embedder
from benchmark.compression.compactor import RowSite
from benchmark.compression.lasso import auto_lasso, group_norms
from benchmark.losses import kl_divergence
from benchmark.methods.deap import DEAP
from benchmark.methods.deap.column_site import ColumnSite
from benchmark.methods.mkd import MKD
from benchmark.model.cost import count
from benchmark.model.fold import fold_batchnorm
from benchmark.recipe import compose

WIDTHS = [8, 8, 8, 8, 16, 16, 16, 16]
"""Columns of the first and rows of the second pruner in each of four bottlenecks."""


def residual_sums(network: Embedder, images: Tensor) -> list[Tensor]:
    """Return the pooled inputs of the last activation of each block."""
    sums = []
    hooks = [
        block.act3.register_forward_pre_hook(lambda module, inputs: sums.append(inputs[0].clone().mean((2, 3))))
        for block in (network.backbone.get_submodule(f"layer{i}.0") for i in range(1, 5))
    ]
    network.features(images)
    for hook in hooks:
        hook.remove()
    return sums


def test_loss_terms(rig):
    made = rig(DEAP(kl_weight=0.7, temperature=3.0, feature_weight=0.25, mkd_weight=2.0))
    made.perturb()
    state = copy.deepcopy(made.student.state_dict())
    student, teacher = made.student.train().features(made.images), made.teacher.features(made.images)
    terms = made.method.loss(student, teacher, made.batches[0])
    made.student.load_state_dict(state)
    s, t = (residual_sums(network, made.images) for network in (made.student, made.teacher))
    distance = sum((a - b).square().sum(dim=1).sqrt().mean() for a, b in zip(s, t, strict=True))
    assert len(s) == 4
    assert min(float(sums.min()) for sums in t) < 0, "sums are read before the activation"
    assert torch.allclose(terms["deap_feature"], 0.25 * distance, rtol=1e-5)
    assert torch.allclose(terms["deap_kl"], 0.7 * kl_divergence(student.logits, teacher.logits, 3.0))
    relations = MKD(alpha=10.0, beta=1.0, stages=(3, 4), power=2, distance="cosine").loss(student, teacher, None)
    assert all(torch.allclose(terms[f"deap_{name}"], 2 * term) for name, term in relations.items())
    assert terms.keys() == {"deap_kl", "deap_feature", "deap_mkd_own", "deap_mkd_other"}


def test_no_loss_at_the_teacher(rig):
    made = rig(DEAP())
    weights = {k.replace(".bn2.norm.", ".bn2."): v for k, v in made.student.state_dict().items() if "pactor" not in k}
    made.teacher.load_state_dict({key: value for key, value in weights.items() if "pruner" not in key})
    with torch.no_grad():
        student, teacher = (network.eval().features(made.images) for network in (made.student, made.teacher))
        terms = made.method.loss(student, teacher, made.batches[0])
    assert all(float(term) < 1e-4 for term in terms.values())


def test_gradients_are_those_of_the_loss_with_the_lasso(rig):
    made = rig(DEAP(lasso=0.3))
    made.perturb()
    assert [site.dim for site in made.sites] == [1, 0] * 4
    made.distiller.train()
    state = copy.deepcopy(made.distiller.state_dict())
    loss = sum(made.distiller(*made.batches[0], mode="loss").values())
    lasso = sum(group_norms(site.weight, site.dim).sum() for site in made.sites)
    expected = torch.autograd.grad(loss + 0.3 * lasso, made.compactors)
    made.distiller.load_state_dict(state)
    sum(made.distiller(*made.batches[0], mode="loss").values()).backward()
    made.method.after_backward(made.student)
    for weight, gradient in zip(made.compactors, expected, strict=True):
        assert torch.allclose(weight.grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
def test_columns_come_to_rest_at_zero_against_a_weaker_loss(rig, scheduled, nesterov):
    """The loss pulls with half the strength of the lasso, at a constant learning rate."""
    made = rig(DEAP(lasso=0.02), plan=scheduled(np.full(200, 0.2)))
    optimizer = torch.optim.SGD(made.compactors, lr=0.2, momentum=0.9, nesterov=nesterov)
    for _ in range(200):
        for site in made.sites:
            site.weight.grad = torch.zeros_like(site.weight)
            site.weight.grad[0] = -0.01 / site.width**0.5  # the first row, and one entry of every column
        made.method.after_backward(made.student)
        optimizer.step()
    largest = float(torch.cat(made.norms()).max())
    assert largest == pytest.approx(0.2 * 0.01, rel=0.05), "both gradients balance at half of a step's length"


def test_auto_lasso(rig):
    made = rig(DEAP(vanish_at=0.7))  # of 20 steps, half of which are left for the last stretch to the threshold
    assert made.method.strength == auto_lasso([0.02] * 7, made.plan.momentum, made.plan.weight_decay)
    assert rig(DEAP(lasso=0.01), optimizer="adamw").method.strength == 0.01


def test_published_preset(rig):
    recipe = compose("deap", "veri776", settings=["method.preset=published"])
    made = rig(DEAP(**recipe.method.arguments))
    assert (made.method.strength, made.method.threshold, made.method.budget) == (0.003, 1e-3, None)
    made.vanish({0: [1], 1: [2]})
    assert made.end_epoch() == [], "channels are removed once, after training"
    block = made.method.compact(made.student).backbone.layer1[0]
    assert (block.conv1.out_channels, block.conv3.in_channels) == (7, 7)


def test_structural_step(rig):
    """A column is removed with an output channel of conv1 and bn1, a row with an input channel of conv3."""
    made = rig(DEAP(lasso=0.01))
    made.step(0)
    removed = {0: [1, 6], 3: [2], 4: [0, 3, 15], 5: [7]}
    made.vanish(removed)
    assert len(made.end_epoch()) == 2 * 4 + 2 * 2
    assert made.method.structure() == {"widths": [6, 8, 8, 7, 13, 15, 16, 16]}
    for i, site in enumerate(made.sites):
        width, block = WIDTHS[i] - len(removed.get(i, [])), site.block
        if isinstance(site, RowSite):
            assert site.weight.shape[0] == block.conv3.weight.shape[1] == width
        else:
            assert site.weight.shape[1] == block.conv1.weight.shape[0] == block.conv1.out_channels == width
            assert len(block.bn1.weight) == len(block.bn1.running_mean) == block.bn1.num_features == width


def test_budget_is_met_with_the_fewest_columns_and_rows(rig, tmp_path):
    made = rig(DEAP(target_macs=0.9))
    for rank, i in enumerate((7, 6, 5, 0, 1, 2, 3, 4)):
        made.vanish({i: range(WIDTHS[i] - 2)}, size=1e-7 * (1 + rank))
    assert made.end_epoch()
    assert not made.method.compressing
    assert made.method.structure()["widths"][4:] == [16, 2, 2, 2], "the smallest are removed first"
    full = count(fold_batchnorm(made.teacher, made.images), (32, 32)).macs
    assert 0.85 * full < count(made.deploy(tmp_path / "student.pt"), (32, 32)).macs <= 0.9 * full


@pytest.mark.parametrize(
    ("network", "kinds"),
    [
        ({}, [ColumnSite, RowSite] * 4),
        ({"backbone": "resnet18", "args": {"layers": [1] * 4, "channels": [8, 8, 16, 16]}}, [RowSite] * 4),
        (
            {
                "backbone": "resnext50_32x4d",
                "args": {"layers": [1] * 4, "channels": [16, 16, 32, 32], "cardinality": 4, "base_width": 8},
            },
            [RowSite] * 4,
        ),
    ],
    ids=["bottleneck", "basic", "grouped"],
)
def test_bottlenecks_without_groups_have_two_pruners(rig, network, kinds):
    assert [type(site) for site in rig(DEAP(), **network).sites] == kinds


def test_merged_pruners_leave_the_original_layers(rig):
    made = rig(DEAP())
    made.vanish_share(0.4)
    block = made.method.compact(made.student).backbone.layer3[0]
    assert [type(block.act1), type(block.bn2)] == [nn.ReLU, nn.Identity]
    assert block.conv1.out_channels == block.conv2.in_channels < 16
