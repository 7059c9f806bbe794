"""Pruning and folding of CDD's compactors against values of the authors' code, on single bottlenecks."""

from types import SimpleNamespace

import pytest
import torch
from timm.models.resnet import Bottleneck, downsample_conv
from torch import Tensor, nn

from benchmark import Progress
from benchmark.compression.compactor import row_sites
from benchmark.methods.cdd import CDD
from benchmark.methods.cdd.gradient_reset import GradientReset

CASES = ("block0_some", "block0_all_small", "block0_tied_max", "block1_some", "block1_none")


class GoldenBlock:
    """timm's bottleneck with the weights of a case, in float64, as the only block of a network."""

    def __init__(self, golden, case: str) -> None:
        values = golden("cdd_deploy")
        prefix = f"{case}/"
        self.expected = {
            key.removeprefix(prefix): torch.from_numpy(values.arrays[key])
            for key in values.arrays.files
            if key.startswith(prefix)
        }
        settings = values.meta[case]["hp"]
        planes, inputs, stride = settings["planes"], settings["in_planes"], settings["stride"]
        shortcut = downsample_conv(inputs, 4 * planes, 1, stride) if settings["shortcut"] == "conv_bn" else None
        self.block = Bottleneck(inputs, planes, stride, downsample=shortcut).double().eval()
        modules = {"conv1": (self.block.conv1, self.block.bn1), "conv2": (self.block.conv2, self.block.bn2)}
        modules["conv3"] = (self.block.conv3, self.block.bn3)
        if shortcut is not None:
            modules["shortcut"] = (shortcut[0], shortcut[1])
        for name, (conv, norm) in modules.items():
            conv.weight.data = self.expected[f"{name}_conv_weight"]
            for field in ("weight", "bias", "running_mean", "running_var"):
                getattr(norm, field).data = self.expected[f"{name}_bn_{field}"]
        self.network = SimpleNamespace(backbone=nn.Sequential(self.block), architecture={"backbone": "golden"})
        (self.site,) = row_sites(self.network)
        self.site.insert()
        self.site.compactor.weight.data = self.expected["compactor_weight"].clone()
        self.method = CDD(threshold=settings["threshold"])
        self.method.gradient_reset = GradientReset([planes], 8)

    def run(self) -> Tensor:
        with torch.no_grad():
            return self.block(self.expected["x"].clone())


@pytest.fixture(params=CASES)
def block(golden, request) -> GoldenBlock:
    return GoldenBlock(golden, request.param)


def close(value: Tensor, expected: Tensor) -> bool:
    return value.shape == expected.shape and torch.allclose(value, expected, rtol=0, atol=1e-9)


def test_forward(block):
    pooled = {}
    block.site.norm.norm.register_forward_hook(lambda module, inputs, out: pooled.update(before=out.mean((2, 3))))
    block.site.norm.register_forward_hook(lambda module, inputs, out: pooled.update(after=out.mean((2, 3))))
    assert close(block.run(), block.expected["out"])
    assert close(pooled["before"], block.expected["gap_conv2"])
    assert close(pooled["after"], block.expected["gap_compactor"])


def test_folding(block):
    block.site.merge()
    assert close(block.block.conv2.weight, block.expected["fused_weight"])
    assert close(block.block.conv2.bias, block.expected["fused_bias"])
    assert close(block.run(), block.expected["out"])


def test_pruning_during_training(block):
    block.method.after_epoch(block.network, Progress(epoch=1, epochs=2, step=1))
    assert torch.equal(block.method.gradient_reset.kept0, block.expected["kept_rows"])
    assert close(block.site.compactor.weight, block.expected["pruned_compactor_weight"])
    assert close(block.block.conv3.weight, block.expected["pruned_conv3_conv_weight"])
    assert close(block.run(), block.expected["out_pruned"])


def test_pruning_and_folding_after_training(block):
    block.method.compact(block.network)
    assert close(block.block.conv2.weight, block.expected["pruned_fused_weight"])
    assert close(block.block.conv2.bias, block.expected["pruned_fused_bias"])
    assert close(block.run(), block.expected["out_pruned"])
