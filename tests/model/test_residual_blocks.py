"""Pruning of the inner widths of residual blocks."""

import copy

import pytest
import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.model.cost import count
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.residual_blocks import deployed_size, inner_widths, narrowed_copy
from benchmark.model.serialize import load_network, save_student

SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
NETWORKS = {
    "bottleneck": {"backbone": "resnet26", "args": {"channels": [8, 8, 16, 16]}},
    "basic": {"backbone": "resnet18", "args": SMALL, "last_stride": 1},
    "deep_stem": {"backbone": "resnet14t", "args": {"channels": [8, 8, 16, 16], "stem_width": 8}, "neck": "bn"},
    "squeeze_excite": {"backbone": "seresnet50", "args": SMALL},
    "wide": {"backbone": "wide_resnet50_2", "args": SMALL, "pool": "gem"},
    "blur_pool": {"backbone": "resnetblur50", "args": SMALL},
    "blur_pool_basic": {"backbone": "resnetblur18", "args": SMALL},
    "average_pool": {"backbone": "resnetaa50", "args": SMALL},
}
IMAGES = torch.randint(256, (32, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
"""A large batch: statistics of a small one would magnify rounding, which differs between processors."""


def build(name: str) -> Embedder:
    torch.manual_seed(0)
    network = Embedder(**{"dim": 16} | NETWORKS[name])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    network.train()(IMAGES)
    return network.eval()


def even_channels(width: int) -> torch.Tensor:
    return torch.arange(0, width, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_removing_zero_channels_does_not_change_the_output(name, tmp_path):
    network = build(name)
    with torch.no_grad():
        for inner in inner_widths(network):
            inner.norm.weight[1::2] = 0
            inner.norm.bias[1::2] = 0
        before = [network.eval()(IMAGES), copy.deepcopy(network).train()(IMAGES)]
    shapes = {parameter: parameter.shape for parameter in network.parameters()}
    kept = [change for inner in inner_widths(network) for change in inner.keep(even_channels(inner.width))]
    changed = {parameter for parameter, shape in shapes.items() if parameter.shape != shape}
    assert {change.parameter for change in kept} == changed
    assert all(change.parameter.shape[change.dim] == len(change.index) for change in kept)
    with torch.no_grad():
        after = [network.eval()(IMAGES), copy.deepcopy(network).train()(IMAGES)]
    for a, b in zip(before, after, strict=True):
        assert float(b.std()) > 0.1
        assert torch.allclose(a, b, rtol=0, atol=1e-5)

    save_student(fold_batchnorm(network, IMAGES), tmp_path / "student.pt", (32, 32))
    with torch.no_grad():
        assert torch.allclose(load_network(tmp_path / "student.pt")(IMAGES), after[0], rtol=0, atol=1e-4)
    save_student(network, tmp_path / "plain.pt", (32, 32))
    with torch.no_grad():
        assert torch.allclose(load_network(tmp_path / "plain.pt")(IMAGES), after[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["bottleneck", "basic", "blur_pool"])
def test_deployed_size(name):
    network = build(name)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    widths = [max(1, inner.width // 3) for inner in inner_widths(network)]
    smaller = narrowed_copy(network, widths)
    assert [inner.width for inner in inner_widths(smaller)] == widths
    expected = count(fold_batchnorm(smaller, IMAGES), (64, 48))
    assert deployed_size(smaller, (64, 48)) == expected
    assert deployed_size(network, (64, 48)) == count(fold_batchnorm(network, IMAGES), (64, 48))
    assert deployed_size(network, (64, 48)).macs > expected.macs
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_narrowed_copy_keeps_the_width_between_blocks():
    network = build("bottleneck")
    narrow = narrowed_copy(network, [inner.width // 2 for inner in inner_widths(network)])
    block = narrow.backbone.layer2[1]
    shapes = [tuple(conv.weight.shape) for conv in (block.conv1, block.conv2, block.conv3)]
    assert shapes == [(4, 32, 1, 1), (4, 4, 3, 3), (32, 4, 1, 1)]
    assert len(inner_widths(network)) == 16


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("convnext_atto", "convnext_atto has no channels that could be pruned: no block"),
        ("res2net50_26w_4s", "res2net50_26w_4s has no channels that could be pruned: no block"),
        ("resnest14d", "resnest14d has grouped convolutions at layer1.0"),
        ("resnext50_32x4d", "resnext50_32x4d has grouped convolutions at layer1.0"),
        ("resnet50_gn", "resnet50_gn has a GroupNorm at layer1.0.bn1"),
    ],
)
def test_unsupported_backbone(backbone, message):
    with torch.device("meta"):
        network = Embedder(backbone, dim=16)
    with pytest.raises(UserError, match=message):
        inner_widths(network)
