"""Folding of batch norms: equal outputs, and the batch norms that cannot be folded."""

import pytest
import torch
from timm.layers import BatchNormAct2d, StdConv2d
from torch import Tensor, nn

from benchmark.model.cost import count
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm


def trained(network: nn.Module) -> nn.Module:
    """Set scales, shifts and statistics to values as after training, without zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return network.eval()


def images(size: int = 32) -> Tensor:
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def norms(network: nn.Module) -> list[str]:
    return [name for name, m in network.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("backbone", "unfolded"),
    [
        ("resnet26", 1),  # the first batch norm of the neck follows the pooling
        ("resnet26d", 1),
        ("mobilenetv3_small_050", 1),  # batch norms with a built-in activation
        ("tf_mobilenetv3_small_minimal_100", 1),  # convolutions with TensorFlow's padding
        ("resnetv2_50", 18),  # the first batch norm of every block follows a sum or a pooling
    ],
)
def test_folded_network_has_equal_outputs(backbone, unfolded):
    args = {"channels": [8, 16, 32, 64]} if backbone.startswith("resnet26") else {}
    network = trained(Embedder(backbone, args=args, dim=16))
    before = norms(network)
    folded = fold_batchnorm(network, images())
    torch.testing.assert_close(folded(images()), network(images()), rtol=1e-3, atol=1e-3)
    assert len(norms(folded)) == unfolded
    assert norms(network) == before, "the original is not changed"
    assert count(folded, (32, 32)).macs == count(network, (32, 32)).macs
    assert count(folded, (32, 32)).parameters < count(network, (32, 32)).parameters
    assert not folded.training


def test_output_of_the_layer_is_also_read_elsewhere():
    class PreActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

        def forward(self, maps: Tensor) -> Tensor:
            stem = self.conv(maps)
            return stem + self.last(self.norm(stem).relu())

    network = trained(PreActivation())
    maps = torch.randn(2, 3, 4, 4)
    folded = fold_batchnorm(network, maps)
    torch.testing.assert_close(folded(maps), network(maps))
    assert norms(folded) == ["norm"]


def test_batchnorm_with_dropout():
    norm = BatchNormAct2d(4)
    norm.drop = nn.Dropout(0.5)
    network = trained(nn.Sequential(nn.Conv2d(3, 4, 1), norm))
    maps = torch.randn(2, 3, 4, 4)
    assert isinstance(fold_batchnorm(network, maps)[1].drop, nn.Dropout)


def test_batchnorm_before_its_layer():
    network = trained(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)))
    assert norms(fold_batchnorm(network, torch.randn(2, 3, 4, 4))) == ["0"]


def test_layer_with_weight_standardization():
    network = trained(nn.Sequential(StdConv2d(3, 4, 1), nn.BatchNorm2d(4)))
    maps = torch.randn(2, 3, 4, 4)
    folded = fold_batchnorm(nn.Sequential(network, nn.Conv2d(4, 4, 1), trained(nn.BatchNorm2d(4))), maps)
    assert norms(folded) == ["0.1"]
