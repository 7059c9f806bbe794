"""CDD's end: rows are removed, batch-norm and compactor folded, and a plain network is left."""

from types import SimpleNamespace

import pytest
import torch
from timm.models.resnet import Bottleneck, downsample_conv
from torch import Tensor, nn

from benchmark.compression.compactor import row_sites
from benchmark.errors import UserError
from benchmark.method import Progress
from benchmark.methods.cdd import CDD
from benchmark.methods.cdd.gradient_reset import GradientReset
from benchmark.model.cost import count
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_student, save_student

GOLDEN_CASES = ("block0_some", "block0_all_small", "block0_tied_max", "block1_some", "block1_none")
SMALL = {"layers": [1, 1, 1, 1]}
NETWORKS = {
    "resnet26": {"backbone": "resnet26", "args": {"channels": [8, 8, 16, 16]}},
    "deep_stem": {"backbone": "resnet14t", "args": {"channels": [8, 8, 16, 16], "stem_width": 8}, "last_stride": 1},
    "basic": {"backbone": "resnet18", "args": SMALL | {"channels": [8, 8, 16, 16]}},
    "grouped": {
        "backbone": "resnext50_32x4d",
        "args": SMALL | {"channels": [16, 16, 32, 32], "cardinality": 4, "base_width": 8},
    },
    "squeeze_excite": {"backbone": "seresnet50", "args": SMALL | {"channels": [8, 8, 16, 16]}},
    "squeeze_excite_basic": {"backbone": "seresnet18", "args": SMALL | {"channels": [8, 8, 16, 16]}},
    "wide": {"backbone": "wide_resnet50_2", "args": SMALL | {"channels": [8, 8, 16, 16]}, "pool": "gem"},
    "blur_pool": {"backbone": "resnetblur50", "args": SMALL | {"channels": [8, 8, 16, 16]}, "neck": "bn"},
    "average_pool": {"backbone": "resnetaa50", "args": SMALL | {"channels": [8, 8, 16, 16]}, "last_stride": 1},
}


class GoldenBlock:
    """timm's bottleneck with a case's weights, in float64, in a network that has nothing else."""

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
        (self.place,) = row_sites(self.network)
        self.place.insert()
        self.place.compactor.weight.data = self.expected["compactor_weight"].clone()
        self.method = CDD(threshold=settings["threshold"])
        self.method.gradient_reset = GradientReset([planes], 8)

    def run(self) -> Tensor:
        with torch.no_grad():
            return self.block(self.expected["x"].clone())


def close(value: Tensor, expected: Tensor) -> bool:
    return value.shape == expected.shape and torch.allclose(value, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_a_block_equals_the_authors(golden, case):
    block = GoldenBlock(golden, case)
    seen = {}
    block.place.norm.norm.register_forward_hook(lambda module, inputs, out: seen.update(before=out.mean((2, 3))))
    block.place.norm.register_forward_hook(lambda module, inputs, out: seen.update(after=out.mean((2, 3))))
    assert close(block.run(), block.expected["out"])
    assert close(seen["before"], block.expected["gap_conv2"])
    assert close(seen["after"], block.expected["gap_compactor"])


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_folding_equals_the_authors(golden, case):
    block = GoldenBlock(golden, case)
    block.place.merge()
    assert close(block.block.conv2.weight, block.expected["fused_weight"])
    assert close(block.block.conv2.bias, block.expected["fused_bias"])
    assert close(block.run(), block.expected["out"])


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_pruning_equals_the_authors(golden, case):
    block = GoldenBlock(golden, case)
    block.method.after_epoch(block.network, Progress(epoch=1, epochs=2, step=1))
    assert torch.equal(block.method.gradient_reset.kept0, block.expected["kept_rows"])
    assert close(block.place.compactor.weight, block.expected["pruned_compactor_weight"])
    assert close(block.block.conv3.weight, block.expected["pruned_conv3_conv_weight"])
    assert close(block.run(), block.expected["out_pruned"])


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_pruning_and_folding_at_the_end_equals_the_authors(golden, case):
    block = GoldenBlock(golden, case)
    block.method.compact(block.network)
    assert close(block.block.conv2.weight, block.expected["pruned_fused_weight"])
    assert close(block.block.conv2.bias, block.expected["pruned_fused_bias"])
    assert close(block.run(), block.expected["out_pruned"])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_deployed_file_equals_the_trained_student(rig, tmp_path, name):
    """Trained a little, compressed in training and once more at the end, saved, loaded."""
    made = rig(CDD(reset_from=0.0, threshold=0.2), **NETWORKS[name])
    made.step(0)
    remove(made, share=0.3)
    assert made.end_epoch()
    made.step(1)
    remove(made, share=0.6)
    before = made.embed()
    widths = [int((norms(block.compactor.weight) >= 0.2).sum()) for block in row_sites(made.student)]

    compact = fold_batchnorm(made.method.compact(made.student), made.batches[0].images)
    compact.head = None
    save_student(compact, tmp_path / "student.pt", (32, 32))
    deployed = load_student(tmp_path / "student.pt")

    with torch.no_grad():
        after = deployed(made.batches[0].images)
    assert float(before.std()) > 0.1
    assert torch.allclose(after, before, rtol=0, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    places = row_sites(made.teacher)
    following = [getattr(deployed.backbone.get_submodule(b.block_name), b.next_conv_name) for b in places]
    assert [conv.in_channels for conv in following] == widths
    assert count(deployed, (32, 32)).macs < count(made.teacher, (32, 32)).macs


def test_a_grouped_convolution_keeps_its_compactor(rig):
    made = rig(CDD(), **NETWORKS["grouped"])
    remove(made, share=0.5)
    compact = made.method.compact(made.student)
    for place in row_sites(made.teacher):
        block = compact.backbone.get_submodule(place.block_name)
        assert block.conv2.groups == 4
        assert isinstance(block.bn2, nn.Conv2d)
        assert block.bn2.kernel_size == (1, 1)
        assert block.bn2.out_channels < block.bn2.in_channels == block.conv2.out_channels


@pytest.mark.parametrize(
    ("backbone", "args", "message"),
    [
        ("mobilenetv3_small_050", {}, "mobilenetv3_small_050 has no residual blocks of timm's ResNet family"),
        ("vit_tiny_patch16_224", {"img_size": 32}, "vit_tiny_patch16_224 has no residual blocks"),
        ("resnetv2_50", {}, "resnetv2_50 has no residual blocks"),
        ("resnet50_gn", SMALL, "resnet50_gn has a GroupNorm\\w* at layer1.0.bn2"),
    ],
)
def test_an_unsupported_backbone_says_what_is_missing(rig, backbone, args, message):
    with pytest.raises(UserError, match=message):
        rig(CDD(), backbone=backbone, args=args, stem="imagenet")


def test_an_unknown_pooling_within_a_block_is_refused(rig):
    made = rig(CDD())
    made.teacher.backbone.layer2[0].aa = nn.MaxPool2d(2)
    with pytest.raises(UserError, match=r"resnet14t has a MaxPool2d at layer2\.0\.aa"):
        CDD().check(made.teacher, made.teacher, made.plan)


def test_student_and_teacher_must_be_alike(rig):
    made = rig(CDD())
    other = Embedder("resnet14t", {"channels": [8, 8, 16, 8], "stem_width": 8}, identities=40)
    with pytest.raises(UserError, match="must start with the teacher's architecture"):
        CDD().check(other, made.teacher, made.plan)


def norms(weight: Tensor) -> Tensor:
    return weight.detach().flatten(1).norm(dim=1)


def remove(made, share: float) -> None:
    """Let this share of every compactor's rows all but vanish, the rest differ from the identity."""
    generator = torch.Generator().manual_seed(1)
    for block in row_sites(made.student):
        weight = block.compactor.weight
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
        gone = torch.randperm(len(weight), generator=generator)[: int(share * len(weight))]
        weight.data[gone] = 1e-7
