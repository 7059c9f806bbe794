"""Files of other projects, in miniature: with the original names and shapes."""

import re
from functools import cache

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import UserError
from benchmark.experiment.networks import frozen_teacher
from benchmark.model.embedder import Embedder
from benchmark.model.origins import ORIGINS, convert
from benchmark.recipe import Network

State = dict[str, Tensor]
IMAGES = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@cache
def resnet(depth: int = 18) -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.get_model(f"resnet{depth}").eval()


def backbone(prefix: str = "") -> State:
    return prefixed(prefix, {key: value for key, value in resnet().state_dict().items() if not key.startswith("fc.")})


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def norm(width: int, seed: int = 1) -> State:
    torch.manual_seed(seed)
    state = nn.BatchNorm1d(width).state_dict()
    return {key: torch.rand_like(value) + 0.5 if value.is_floating_point() else value for key, value in state.items()}


def block(width: int = 512, dim: int = 16) -> State:
    torch.manual_seed(2)
    return prefixed("0.", norm(width)) | {"2.weight": torch.randn(dim, width)} | prefixed("3.", norm(dim, 3))


def clip(width: int = 128, tokens: int = 9, patch: int = 16, depth: int = 2) -> State:
    torch.manual_seed(4)
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (width, 3, patch, patch), "class_embedding": (width,)}
    shapes |= {"positional_embedding": (tokens, width), "proj": (width, 64)}
    norms = ["ln_pre", "ln_post"]
    for number in range(depth):
        name = f"transformer.resblocks.{number}"
        norms += [f"{name}.ln_1", f"{name}.ln_2"]
        for part, rows, columns in (
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ):
            shapes |= {f"{name}.{part}weight": (rows, columns), f"{name}.{part}bias": (rows,)}
    shapes |= {f"{name}.{kind}": (width,) for name in norms for kind in ("weight", "bias")}
    return {name: 0.05 * torch.randn(shape) for name, shape in shapes.items()}


CLASSES = torch.zeros(7, 512)
FILES = {
    "air-distiller": lambda: (
        backbone() | prefixed("fc.add_block.", block()) | {"fc.classifier.weight": CLASSES[:, :16]}
    ),
    "cdd": lambda: prefixed(
        "module.",
        backbone("base.")
        | prefixed("classifier.add_block.", block())
        | {"classifier.classifier.weight": CLASSES[:, :16]},
    ),
    "clip-reid": lambda: (
        prefixed("image_encoder.", clip())
        | prefixed("bottleneck.", norm(128))
        | prefixed("bottleneck_proj.", norm(64))
        | {"classifier.weight": torch.zeros(7, 128), "classifier_proj.weight": torch.zeros(7, 64)}
        | {"prompt_learner.cls_ctx": torch.zeros(7, 4, 64), "text_encoder.positional_embedding": torch.zeros(77, 64)}
    ),
    "fast-reid": lambda: {
        "model": backbone("backbone.")
        | prefixed("heads.bottleneck.0.", norm(512))
        | {"heads.pool_layer.p": torch.tensor([2.5]), "heads.weight": CLASSES}
        | {"pixel_mean": torch.zeros(1, 3, 1, 1), "pixel_std": torch.ones(1, 3, 1, 1)},
        "iteration": 9,
    },
    "reid-strong-baseline": lambda: (
        backbone("base.") | prefixed("bottleneck.", norm(512)) | {"classifier.weight": CLASSES}
    ),
    "torchreid": lambda: {
        "state_dict": prefixed(
            "module.", backbone() | {"classifier.weight": CLASSES, "classifier.bias": torch.zeros(7)}
        ),
        "epoch": 60,
    },
}
"""Files of each project as its programs write them."""


def load(tmp_path, project: str, content: object) -> Embedder:
    """Convert a file, and load the frozen teacher from it."""
    torch.save(content, tmp_path / "original.pth")
    converted = convert(tmp_path / "original.pth", project)
    torch.save(converted.weights, tmp_path / "converted.pth")
    network = {**converted.network, "weights": str(tmp_path / "converted.pth")}
    if converted.network["backbone"].startswith("vit"):
        network["args"] = {**network["args"], "img_size": [64, 32]}
    return frozen_teacher(Network(**network), identities=0)


def maps(images: Tensor, last_stride: int = 1) -> Tensor:
    """The last feature maps of the original ResNet."""
    original = resnet()
    stages = (original.layer1, original.layer2, original.layer3, original.layer4)
    strides = [original.layer4[0].conv1, original.layer4[0].downsample[0]]
    before = [layer.stride for layer in strides]
    for layer in strides:
        layer.stride = (last_stride, last_stride)
    values = original.maxpool(original.relu(original.bn1(original.conv1(images))))
    for stage in stages:
        values = stage(values)
    for layer, stride in zip(strides, before, strict=True):
        layer.stride = stride
    return values


def normed(values: Tensor, state: State) -> Tensor:
    return F.batch_norm(values, state["running_mean"], state["running_var"], state["weight"], state["bias"], eps=1e-5)


def imagenet(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (images / 255 - mean) / std


def linear(values: Tensor) -> Tensor:
    hidden = normed(values, norm(512)).relu() @ block()["2.weight"].T
    return normed(hidden, norm(16, 3))


EXPECTED = {
    "air-distiller": lambda images: linear(maps(images).mean((2, 3))),
    "cdd": lambda images: linear(maps(images).mean((2, 3))),
    "fast-reid": lambda images: normed(maps(images).clamp(min=1e-6).pow(2.5).mean((2, 3)).pow(1 / 2.5), norm(512)),
    "reid-strong-baseline": lambda images: normed(maps(images).mean((2, 3)), norm(512)),
    "torchreid": lambda images: maps(images, 2).mean((2, 3)),
}
"""Embeddings by the original networks; of AIR-Distiller, with the max-pooling of torchvision."""


@pytest.mark.parametrize("project", EXPECTED)
@torch.no_grad()
def test_resnets(project, tmp_path):
    network = load(tmp_path, project, FILES[project]())
    torch.testing.assert_close(network(IMAGES), EXPECTED[project](imagenet(IMAGES)), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_clip_reid(tmp_path):
    state = clip()
    network = load(tmp_path, "clip-reid", FILES["clip-reid"]())

    def layer_norm(values: Tensor, name: str) -> Tensor:
        return F.layer_norm(values, (128,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    patches = F.conv2d((IMAGES / 255 - 0.5) / 0.5, state["conv1.weight"], stride=16).flatten(2).mT
    tokens = torch.cat([state["class_embedding"].expand(2, 1, -1), patches], 1) + state["positional_embedding"]
    tokens = layer_norm(tokens, "ln_pre")
    for number in range(2):
        name = f"transformer.resblocks.{number}"
        qkv = layer_norm(tokens, f"{name}.ln_1") @ state[f"{name}.attn.in_proj_weight"].T
        parts = (qkv + state[f"{name}.attn.in_proj_bias"]).unflatten(2, (3, 2, 64)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        tokens = tokens + mixed @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
        hidden = layer_norm(tokens, f"{name}.ln_2") @ state[f"{name}.mlp.c_fc.weight"].T
        hidden = hidden + state[f"{name}.mlp.c_fc.bias"]
        hidden = hidden * (1.702 * hidden).sigmoid()
        tokens = tokens + hidden @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]
    torch.testing.assert_close(network(IMAGES), layer_norm(tokens, "ln_post")[:, 0], rtol=1e-3, atol=1e-3)


def test_a_distiller_that_was_saved_whole(tmp_path):
    whole = prefixed("student.", FILES["air-distiller"]()) | prefixed("teacher.", backbone())
    assert load(tmp_path, "air-distiller", whole).dim == 16


@pytest.mark.parametrize(
    ("project", "change", "message"),
    [
        ("fast-reid", {"backbone.layer1.0.bn1.IN.weight": CLASSES[0]}, "instance-batch normalization .IBN., which no"),
        ("fast-reid", {"backbone.NL_2.0.g.0.weight": CLASSES[0]}, "NL_2.0.g.0.weight belongs to non-local blocks"),
        (
            "fast-reid",
            {"heads.bottleneck.1.weight": CLASSES[0]},
            "it has heads.bottleneck.1.weight, which no network of",
        ),
        ("torchreid", {"fc.0.weight": CLASSES}, "fc.0.weight belongs to another network than this project's ResNets"),
        ("cdd", {"base.layer1.0.compactor.weight": CLASSES}, "belongs to compactors: give the teacher, or the student"),
        ("clip-reid", {"cv_embed": CLASSES}, "cv_embed belongs to embeddings of cameras"),
    ],
)
def test_refused(project, change, message, tmp_path):
    content = FILES[project]()
    state = content.get("model") or content.get("state_dict") or content
    state.update(change)
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "w.pth", project)


@pytest.mark.parametrize(
    ("project", "key", "value"),
    [
        ("cdd", "module.classifier.add_block.3.weight", torch.tensor(1.0)),
        ("clip-reid", "image_encoder.conv1.weight", torch.zeros(128)),
        ("clip-reid", "image_encoder.class_embedding", torch.zeros(7)),
    ],
)
def test_impossible_shapes(project, key, value, tmp_path):
    torch.save(FILES[project]() | {key: value}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"w.pth is not a network of {project}: its tensors have impossible shapes"):
        convert(tmp_path / "w.pth", project)


def test_incomplete(tmp_path):
    torch.save({key: value for key, value in backbone().items() if "layer4" not in key}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"it lacks a known depth, and has 2 \+ 2 \+ 2 \+ 0 basic blocks"):
        convert(tmp_path / "w.pth", "torchreid")
    torch.save({"x": {"y": 1}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="it has no tensors"):
        convert(tmp_path / "w.pth", "torchreid")
    with pytest.raises(UserError, match=f"unknown project; did you mean.* Known: {', '.join(map(re.escape, ORIGINS))}"):
        convert(tmp_path / "w.pth", "fastreid")
