"""Inner channels of networks that are not ResNets: which layers have them, and networks without some of them."""

import copy

import pytest
import torch

from benchmark.compression.compactor import row_sites
from benchmark.compression.width_cost import WidthCost
from benchmark.errors import UserError
from benchmark.model.channel_groups import ChannelGroup, channel_groups
from benchmark.model.cost import count
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.residual_blocks import inner_widths
from benchmark.model.serialize import load_network, save_student

SIZE = (64, 32)
IMAGES = torch.randint(0, 256, (4, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "mobilenetv3_small_050": {},  # inverted residual blocks with gates
    "mnasnet_small": {},  # without gates
    "regnety_002": {},  # bottlenecks with grouped convolutions and gates
    "resnetv2_50": {"layers": [1, 1, 1, 1], "channels": [32, 32, 64, 64], "stem_chs": 16},  # pre-activation bottlenecks
    "dla34": {"levels": [1, 1, 1, 1, 1, 1], "channels": [8, 8, 8, 16, 16, 32]},  # trees of basic blocks
}
GROUPED = ("regnety_002",)
"""Networks whose inner convolutions are grouped, so that only compactors can prune them."""


@pytest.fixture(params=NETWORKS)
def network(request) -> Embedder:
    """A network with statistics of images, in eval mode."""
    torch.manual_seed(0)
    built = Embedder(request.param, NETWORKS[request.param], neck="none")
    for module in built.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        built.train()(IMAGES)
    return built.eval()


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.allclose(first, second, rtol=0, atol=1e-5 * float(second.abs().max()))


def test_layers_of_an_inverted_residual_block():
    groups = channel_groups({"backbone": "mobilenetv3_small_050", "args": {}})
    assert len(groups) == 10  # of 11 blocks, the first has no expansion
    assert groups[-1] == ChannelGroup(
        block="blocks.4.2",
        conv="blocks.4.2.conv_pw",
        norm="blocks.4.2.bn2",
        next_conv="blocks.4.2.conv_pwl",
        others=(
            ("blocks.4.2.bn1", "channels"),
            ("blocks.4.2.conv_dw", "channels"),
            ("blocks.4.2.se.conv_reduce", "inputs"),
            ("blocks.4.2.se.conv_expand", "outputs"),
        ),
    )


def test_finds_what_is_known_of_resnets():
    network = Embedder("resnet26", {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}, neck="none")
    known = [f"{inner.block_name}.{inner.conv_name}" for inner in inner_widths(network)]
    assert [group.conv for group in channel_groups(network.architecture)] == known


@pytest.mark.parametrize("backbone", ["convnext_atto", "vit_tiny_patch16_224", "repvgg_a0"])
def test_networks_without_inner_channels(backbone):
    with torch.device("meta"):
        network = Embedder(backbone)
    with pytest.raises(UserError, match=f"{backbone} has no channels that could be pruned"):
        row_sites(network)


@torch.no_grad()
def test_network_with_pruned_compactors(network, tmp_path):
    """Removing rows of zeros changes nothing, the deployed network is equal, and its cost is known before."""
    before = network(IMAGES)
    sites = row_sites(network)
    cost = WidthCost(network, sites, SIZE)
    for site in sites:
        site.insert()
    assert torch.equal(network(IMAGES), before)
    kept = [torch.arange(0, site.width, 2) for site in sites]
    for site, rows in zip(sites, kept, strict=True):
        site.weight.mul_(0.5 + torch.rand(site.width, 1, 1, 1))
        removed = torch.ones(site.width, dtype=torch.bool)
        removed[rows] = False
        site.weight[removed] = 0
    masked = network(IMAGES)
    for site, rows in zip(sites, kept, strict=True):
        changed = site.keep(rows)
        assert all(change.parameter.shape[change.dim] == len(rows) for change in changed)
    assert close(network(IMAGES), masked)
    widths = [site.width for site in sites]
    for site in sites:
        site.merge()
    deployed = fold_batchnorm(network, IMAGES)
    assert close(deployed(IMAGES), masked)
    assert cost.size(widths) == count(deployed, SIZE)
    save_student(deployed, tmp_path / "student.pt", SIZE)
    assert torch.equal(load_network(tmp_path / "student.pt")(IMAGES), deployed(IMAGES))


@torch.no_grad()
def test_network_with_pruned_channels(network):
    """The network without some channels equals the one whose next convolutions do not read them."""
    if network.architecture["backbone"] in GROUPED:
        with pytest.raises(UserError, match="grouped convolutions"):
            inner_widths(network)
        return
    cost = WidthCost(network, inner_widths(network), SIZE)
    unread = copy.deepcopy(network)
    for inner in inner_widths(unread):
        inner.next_conv.weight[:, 1::2] = 0
        for name, role in inner.others:
            if role == "inputs":
                inner.block.get_submodule(name).weight[:, 1::2] = 0
    for inner in inner_widths(network):
        inner.keep(torch.arange(0, inner.width, 2))
    assert close(network(IMAGES), unread(IMAGES))
    assert cost.size([inner.width for inner in inner_widths(network)]) == count(fold_batchnorm(network, IMAGES), SIZE)


def test_backbone_that_cannot_be_traced():
    with pytest.raises(UserError, match=r"cs3darknet_focus_s has no channels .*: Torch-Pruning.* cannot trace it \(Ty"):
        channel_groups({"backbone": "cs3darknet_focus_s", "args": {}})


def test_backbone_built_for_another_image_size():
    assert channel_groups({"backbone": "vit_tiny_patch16_224", "args": {"img_size": [64, 32], "depth": 1}}) == []


def test_compactors_with_one_row_are_merged():
    """A depthwise convolution of one channel looks like any other convolution."""
    torch.manual_seed(0)
    network = Embedder("mobilenetv3_small_050", dim=16).eval()
    for site in row_sites(network):
        site.insert()
    sites = row_sites(network)
    for site in sites:
        site.keep(torch.zeros(1, dtype=torch.int64))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = network(images)
        for site in sites:
            site.merge()
        assert torch.allclose(network(images), expected, atol=1e-6)
