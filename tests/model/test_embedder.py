"""Embedding networks: their options on several backbone families, and their feature taps."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmark.errors import UserError
from benchmark.model.cost import count
from benchmark.model.embedder import Embedder

SMALL = {"channels": [8, 16, 32, 64]}
MOBILE = {"backbone": "mobilenetv3_small_050", "last_stride": 2}
VIT = {"backbone": "test_vit", "args": {"img_size": 32, "patch_size": 8}}
RESNET = {"backbone": "resnet26", "args": SMALL}


def images(count: int = 2, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def rows(network: Embedder, size: int = 64) -> int:
    """Return the height of the backbone's last feature maps."""
    with torch.inference_mode():
        return network.backbone.eval().forward_features(images(1, size).float()).shape[2]


@pytest.mark.parametrize("network", [RESNET, {"backbone": "resnet18", "args": SMALL}, MOBILE, VIT])
@pytest.mark.parametrize("neck", ["linear", "bn"])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_features(network, neck, head):
    embedder = Embedder(**network, neck=neck, head=head, dim=12, identities=5).eval()
    features = embedder.features(images())
    width = embedder.backbone.head_hidden_size
    assert features.pooled.shape == (2, width)
    assert features.embedding.shape == (2, embedder.dim) == (2, 12 if neck == "linear" else width)
    assert features.logits.shape == (2, 5)
    torch.testing.assert_close(embedder(images()), features.embedding)


def test_input_normalization():
    embedder = Embedder(**RESNET, neck="bn").eval()
    mean, std = (torch.tensor(embedder.backbone.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    pooled = embedder.backbone((images() / 255 - mean) / std)
    torch.testing.assert_close(embedder(images()), embedder.neck(pooled), rtol=1e-4, atol=1e-5)


def test_image_size():
    images = torch.randint(0, 256, (2, 3, 48, 32), dtype=torch.uint8)
    torch.manual_seed(0)
    small = Embedder("resnet14t", dim=8, image_size=(24, 16)).eval()
    torch.manual_seed(0)
    plain = Embedder("resnet14t", dim=8).eval()
    resized = F.interpolate(images.float(), (24, 16), mode="bilinear", antialias=True)
    expected = plain.features(resized).embedding
    assert torch.equal(small(images), expected)
    assert torch.equal(small.features(resized).embedding, expected), "images of this size are not resized"
    assert count(small, (48, 32)) == count(plain, (24, 16))


def test_bicubic_interpolation_stays_within_the_range_of_pixels():
    images = 255 * torch.tensor([0, 0, 1, 1], dtype=torch.uint8).repeat_interleave(12).expand(1, 3, 48, 48)
    network = Embedder("resnet14t", dim=8, image_size=(36, 36), interpolation="bicubic").eval()
    pixels = network.normalize(images) * network.std + network.mean
    expected = F.interpolate(images, (36, 36), mode="bicubic", antialias=True)  # rounds and clips to uint8
    torch.testing.assert_close(pixels, expected.float(), rtol=0, atol=1)
    assert count(network, (48, 48)) == count(Embedder("resnet14t", dim=8), (36, 36))


def test_cosine_head():
    embedder = Embedder(**RESNET, head="cosine", scale=20.0, identities=5).eval()
    features = embedder.features(images())
    for embedding, logits in zip(features.embedding, features.logits, strict=True):
        for weight, logit in zip(embedder.head.weight, logits, strict=True):
            cosine = (embedding @ weight) / (embedding.norm() * weight.norm())
            torch.testing.assert_close(logit, 20 * cosine)


def test_linear_neck():
    neck = Embedder(**RESNET, dim=12).neck
    assert [type(module) for module in neck] == [nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]


@pytest.mark.parametrize("network", [RESNET, MOBILE])
def test_gem(network):
    # The pooling of the second network has to return (B, C, 1, 1).
    embedder = Embedder(**network, pool="gem", neck="bn").eval()
    gem = embedder.backbone.global_pool
    with torch.no_grad():
        gem.exponent.fill_(2.5)
    maps = torch.rand(2, 7, 3, 4, generator=torch.Generator().manual_seed(0))
    pooled = gem(maps).detach().flatten(1)
    for image in range(2):
        for channel in range(7):
            values = [float(value) ** 2.5 for value in maps[image, channel].flatten()]
            assert float(pooled[image, channel]) == pytest.approx((sum(values) / len(values)) ** (1 / 2.5), rel=1e-5)
    embedder(images()).sum().backward()
    assert gem.exponent.grad is not None


@pytest.mark.parametrize(
    "backbone", ["resnet26", "resnet18", "resnet26d", "resnetblur50", "res2net50d", "resnest26d", "seresnet50"]
)
def test_last_stride_1_doubles_the_last_resolution(backbone):
    with torch.device("meta"):
        normal, larger = (Embedder(backbone, last_stride=stride) for stride in (2, 1))
        for network in (normal, larger):
            network.shape = network.backbone.eval().forward_features(torch.empty(1, 3, 64, 64)).shape
    assert larger.shape == (*normal.shape[:2], 2 * normal.shape[2], 2 * normal.shape[3])


def test_last_stride_1_equals_timms_network_with_that_stride():
    # With `output_stride=16`, timm uses the same stride and dilates the blocks after it.
    ours = Embedder("resnet26d", args=SMALL, last_stride=1, neck="bn").eval()
    theirs = Embedder("resnet26d", args={**SMALL, "output_stride": 16}, neck="bn").eval()
    theirs.load_state_dict(ours.state_dict())
    for module in theirs.backbone.layer4.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.dilation, module.padding = (1, 1), (1, 1)
    theirs.backbone.layer4[0].downsample[0] = nn.Identity()
    torch.testing.assert_close(ours(images(size=64)), theirs(images(size=64)))


@pytest.mark.parametrize("backbone", ["resnet26", "resnet26d", "resnet26t"])
def test_stem(backbone):
    networks = {stem: Embedder(backbone, args=SMALL, stem=stem) for stem in ("imagenet", "no_pool", "stride1")}
    assert {stem: rows(network) for stem, network in networks.items()} == {"imagenet": 2, "no_pool": 4, "stride1": 8}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"backbone": "resnet62"}, ["'resnet62'", "did you mean 'resnet"]),
        ({"backbone": "resnet26", "args": {"chanels": [8, 8, 8, 8]}}, ["resnet26", "'chanels'", "'channels'"]),
        ({"backbone": "resnet26", "args": {"channels": "wide"}}, ["resnet26", "channels"]),
        ({"backbone": "test_vit", "stem": "no_pool"}, ["stem: no_pool"]),
        ({"backbone": "test_vit", "last_stride": 1}, ["last_stride: 1", "test_vit"]),
        ({"backbone": "test_vit", "pool": "gem"}, ["pool: gem", "test_vit"]),
    ],
)
def test_invalid_arguments(arguments, parts):
    with pytest.raises(UserError) as raised:
        Embedder(**arguments)
    assert all(part in str(raised.value) for part in parts), str(raised.value)


class TestTaps:
    @pytest.mark.parametrize(
        ("network", "stage", "module"),
        [
            (RESNET, "layer1", "layer3.1.bn2"),
            (MOBILE, "blocks.0", "blocks.1.0.bn1"),
        ],
    )
    def test_equal_the_outputs_of_modules(self, network, stage, module):
        embedder = Embedder(**network, identities=5).eval()
        seen = {}
        for name in (stage, module):
            # The output is copied, because the activations after these modules are in-place.
            embedder.backbone.get_submodule(name).register_forward_hook(
                lambda _, __, output, name=name: seen.update({name: output.clone()})
            )
        untapped = embedder.features(images())
        expected = dict(seen)
        stages = [info["module"] for info in embedder.backbone.feature_info[-4:]]
        by_stage = f"stage{stages.index(stage) + 1}"
        embedder.tap([by_stage, module])
        features = embedder.features(images())
        assert list(features.taps) == [by_stage, module]
        torch.testing.assert_close(features.taps[by_stage], expected[stage], rtol=0, atol=0)
        torch.testing.assert_close(features.taps[module], expected[module], rtol=0, atol=0)
        torch.testing.assert_close(features.logits, untapped.logits, rtol=0, atol=0)

    @pytest.mark.parametrize("backbone", ["resnet18", "resnet26d", "seresnet33ts", "res2net50d", "regnety_002"])
    def test_pre_is_the_input_of_the_last_activation(self, backbone):
        embedder = Embedder(backbone)
        for module in embedder.modules():
            if isinstance(module, nn.BatchNorm2d):  # timm initializes some with 0, so that no sum would be negative
                nn.init.ones_(module.weight)
        stages = [f"stage{i}" for i in (1, 2, 3, 4)]
        embedder.tap([*stages, *(f"{stage}:pre" for stage in stages)])
        taps = embedder.features(images(4, 64)).taps
        for stage in stages:
            before = taps[f"{stage}:pre"]
            activation = F.silu if backbone == "seresnet33ts" else F.relu
            assert (before < 0).any()
            torch.testing.assert_close(activation(before), taps[stage], rtol=0, atol=0)

    @pytest.mark.parametrize("backbone", ["mobilenetv3_small_050", "convnext_atto", "rexnet_100", "test_vit"])
    def test_pre_is_the_output_without_a_last_activation(self, backbone):
        embedder = Embedder(backbone, args={"img_size": 64} if backbone == "test_vit" else {}).eval()
        embedder.tap(["stage2:pre", "stage2"])
        taps = embedder.features(images(2, 64)).taps
        assert taps["stage2:pre"] is taps["stage2"]

    def test_pre_has_gradients_and_is_freed(self):
        embedder = Embedder(**RESNET, identities=5)
        embedder.tap(["layer1.1:pre", "layer1.1.act3", "stage2:pre"])
        twin = copy.deepcopy(embedder)
        taps = twin.features(images()).taps
        torch.testing.assert_close(taps["layer1.1:pre"].relu(), taps["layer1.1.act3"], rtol=0, atol=0)
        taps["stage2:pre"].sum().backward()
        assert twin.backbone.layer2[0].conv1.weight.grad is not None
        assert twin.backbone.layer3[0].conv1.weight.grad is None
        twin(images())
        for network in (twin, embedder):
            kept = [vars(module).keys() & {"tapped", "activated"} for module in network.modules()]
            assert not any(kept)

    @pytest.mark.slow
    def test_pre_with_torch_compile(self):
        embedder = Embedder(**RESNET).eval()
        embedder.tap(["stage1:pre", "stage4"])
        plain = embedder.features(images()).taps
        compiled = torch.compile(embedder.features, backend="eager")(images()).taps
        for name, maps in plain.items():
            torch.testing.assert_close(compiled[name], maps, rtol=0, atol=0)

    def test_deep_copy_has_separate_taps(self):
        embedder = Embedder(**RESNET, identities=5).eval()
        embedder.tap(["stage2"])
        twin = copy.deepcopy(embedder)
        torch.nn.init.zeros_(twin.backbone.conv1.weight)
        first, second = embedder.features(images()), twin.features(images())
        assert not torch.equal(first.taps["stage2"], second.taps["stage2"])
        torch.testing.assert_close(embedder.features(images()).taps["stage2"], first.taps["stage2"], rtol=0, atol=0)

    def test_have_gradients(self):
        embedder = Embedder(**RESNET, identities=5)
        embedder.tap(["stage1"])
        embedder.features(images()).taps["stage1"].sum().backward()
        assert embedder.backbone.conv1.weight.grad is not None
        assert embedder.backbone.layer2[0].conv1.weight.grad is None

    def test_rejects_an_output_that_is_modified_in_place(self):
        embedder = Embedder(**RESNET, identities=5).eval()
        embedder.tap(["layer1.0.bn3"])  # timm adds the shortcut to it in place
        with pytest.raises(RuntimeError, match=r"layer1\.0\.bn3"):
            embedder.features(images())

    @pytest.mark.parametrize(("name", "guess"), [("layer1.0.conv22", "layer1.0.conv2"), ("stage1:post", "stage1")])
    def test_unknown_name_suggests_the_nearest(self, name, guess):
        with pytest.raises(UserError, match=rf"{name}'; did you mean '{guess}"):
            Embedder(**RESNET).tap([name])

    @pytest.mark.parametrize("name", ["stage9", "stage0", "stage12:pre"])
    def test_unknown_stage(self, name):
        with pytest.raises(
            UserError, match=f"{name}'; its stages are stage1, stage2, stage3, stage4: choose one of them"
        ):
            Embedder(**RESNET).tap([name])
