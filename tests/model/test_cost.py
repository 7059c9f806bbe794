"""Parameters, MACs and memory against values computed by hand."""

import pytest
import torch
from torch import Tensor, nn

from benchmark.model import cost
from benchmark.model.cost import count, peak_memory
from benchmark.model.embedder import Embedder

CPU = torch.device("cpu")


class Net(nn.Module):
    """Layers that take uint8 images, like every network that is measured."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.float())


@pytest.mark.parametrize(
    ("layers", "macs", "parameters"),
    [
        ([nn.Conv2d(3, 8, 3, padding=1)], 3 * 8 * 9 * 16 * 12, 3 * 8 * 9 + 8),
        ([nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)], 3 * 8 * 9 * 8 * 6, 3 * 8 * 9),
        ([nn.Conv2d(3, 6, 3, padding=1, groups=3)], 6 * 9 * 16 * 12, 6 * 9 + 6),
        ([nn.Flatten(), nn.Linear(3 * 16 * 12, 5)], 3 * 16 * 12 * 5, 3 * 16 * 12 * 5 + 5),
        ([nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)], 0, 6),
    ],
)
def test_count(layers, macs, parameters):
    assert count(Net(*layers), (16, 12)) == cost.Size(parameters, macs)


def test_count_of_attention_pooling():
    with torch.device("meta"):
        network = Embedder("vit_base_patch16_siglip_224", neck="none")
    assert count(network, (224, 224)).parameters == sum(parameter.numel() for parameter in network.parameters())


def test_count_of_resnet50():
    # 5.338 G is the count of torch.utils.flop_counter for timm's resnet50 at 256 x 256 without its classifier.
    with torch.device("meta"):
        network = Embedder("resnet50", last_stride=2, neck="bn")
    assert count(network, (256, 256)).macs / 1e9 == pytest.approx(5.338, abs=5e-4)


def test_count_without_classifier():
    with_head, without = (Embedder("test_resnet", last_stride=2, dim=12, identities=n) for n in (1000, 0))
    assert count(with_head, (32, 32)) == count(without, (32, 32))


def test_count_of_attention():
    tokens, width, depth, hidden = 16 + 1, 192, 12, 768
    with torch.device("meta"):
        network = Embedder("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8}, neck="bn", last_stride=2)
    block = tokens * width * (3 * width + width + 2 * hidden) + 2 * tokens * tokens * width
    assert count(network, (32, 32)).macs == 16 * 3 * 64 * width + depth * block


def test_count_does_not_change_the_network():
    network = Embedder("test_resnet", last_stride=2, dim=12).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count(network, (32, 32))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_peak_memory():
    # At the peak, the float images and the outputs of the first two layers are alive.
    network = Net(nn.Conv2d(3, 5, 1, bias=False), nn.Conv2d(5, 7, 1, bias=False), nn.Conv2d(7, 1, 1, bias=False))
    pixels = 64 * 16 * 16
    weights = 3 * 5 + 5 * 7 + 7
    # `Sequential` frees each input after the layer; `forward` keeps the images.
    assert peak_memory(network, (16, 16), CPU) == (4 * (weights + pixels * (3 + 5 + 7))) / 2**20


def test_peak_memory_ignores_views():
    class Views(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            maps = images.float()
            return maps.view(-1).view_as(maps).relu_()

    assert peak_memory(Views(), (16, 16), CPU) == 4 * 64 * 3 * 16 * 16 / 2**20
