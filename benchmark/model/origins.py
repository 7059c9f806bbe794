"""Networks of other projects: the names of their tensors, by those of this suite.

Each project is a list of patterns. A tensor that no pattern matches is in a part that a network of this suite does not
have, and the file is refused. Classifiers are left out, because the order of their identities is not known.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark.errors import UserError, nearest
from benchmark.model.state_dicts import NOT_TRAINED, named_tensors
from benchmark.model.weight_file import printable, read

_RESNET = r"((?:layer[1-4]\.\d+\.)?(?:conv[123]|bn[123]|downsample\.[01])\.\w+)"
"""Names in a ResNet of torchvision, which timm has, too."""
_RESNETS: Mapping[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
"""timm's names by the numbers of blocks, and whether these are bottlenecks."""
_REASONS = {
    r".*\.(IN|BN)\..*": "instance-batch normalization (IBN), which no backbone of timm has",
    r".*NL_\d.*": "non-local blocks, which no backbone of timm has",
    r".*(compactor|pruner).*": "compactors: give the teacher, or the student before its compression",
    r"(conv\d|layer\d|fc|base|image_encoder).*": "another network than this project's ResNets, or its ViT",
    r"cv_embed": "embeddings of cameras (SIE), which are part of no network of this suite",
}
"""What tensors that no pattern matches belong to."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The files of a project."""

    rules: Mapping[str, str]
    """Names of this suite by patterns of the project's."""
    unused: str
    """Pattern of tensors that are not part of an embedding network."""
    network: Mapping[str, Any]
    """Options of the network that the file does not state, as in the section `teacher.network`."""
    remark: str = ""
    """How a network of this suite differs from the project's."""


_LINEAR_NECK = {"0.(.+)": r"neck.norm.\1", "2.weight": "neck.linear.weight", "3.(.+)": r"neck.out.\1"}
"""Names in this suite by those in the neck of AIR-Distiller and CDD."""
ORIGINS: Mapping[str, Origin] = {
    "air-distiller": Origin(
        {rf"(?:student\.)?{_RESNET}": r"backbone.\1"}
        | {rf"(?:student\.)?fc\.add_block\.{key}": name for key, name in _LINEAR_NECK.items()},
        r"(student\.)?fc\.classifier\.weight|teacher\..+",
        {"last_stride": 1, "neck": "linear"},
        "the max-pooling of its stem has windows of 2 x 2, and of 3 x 3 here",
    ),
    "cdd": Origin(
        {rf"base\.{_RESNET}": r"backbone.\1"}
        | {rf"classifier\.add_block\.{key}": name for key, name in _LINEAR_NECK.items()},
        r"classifier\.classifier\.weight|Teacher\..+",
        {"last_stride": 1, "neck": "linear"},
    ),
    "clip-reid": Origin(
        {
            r"image_encoder\.conv1\.weight": "backbone.patch_embed.proj.weight",
            r"image_encoder\.class_embedding": "backbone.cls_token",
            r"image_encoder\.positional_embedding": "backbone.pos_embed",
            r"image_encoder\.ln_pre\.(.+)": r"backbone.norm_pre.\1",
            r"image_encoder\.ln_post\.(.+)": r"backbone.norm.\1",
            r"image_encoder\.transformer\.resblocks\.(\d+)\.ln_([12])\.(.+)": r"backbone.blocks.\1.norm\2.\3",
            r"image_encoder\.transformer\.resblocks\.(\d+)\.attn\.in_proj_(.+)": r"backbone.blocks.\1.attn.qkv.\2",
            r"image_encoder\.transformer\.resblocks\.(\d+)\.attn\.out_proj\.(.+)": r"backbone.blocks.\1.attn.proj.\2",
            r"image_encoder\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(.+)": r"backbone.blocks.\1.mlp.fc1.\2",
            r"image_encoder\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(.+)": r"backbone.blocks.\1.mlp.fc2.\2",
        },
        r"image_encoder\.proj|(classifier|bottleneck)(_proj)?\..+|(text_encoder|prompt_learner)\..+",
        {"last_stride": 2, "neck": "none", "head": "linear"},
        "its embedding has the projected feature, too, and only the feature before the projection is used here",
    ),
    "fast-reid": Origin(
        {
            r"backbone\." + _RESNET: r"backbone.\1",
            r"heads\.(?:bottleneck\.0|bnneck)\.(.+)": r"neck.\1",
            r"heads\.pool_layer\.p": "backbone.global_pool.exponent",
        },
        r"heads\.(classifier\.)?weight|pixel_(mean|std)",
        {"last_stride": 1},
    ),
    "reid-strong-baseline": Origin(
        {rf"base\.{_RESNET}": r"backbone.\1", r"bottleneck\.(.+)": r"neck.\1"},
        r"classifier\.(weight|bias)",
        {"last_stride": 1},
    ),
    "torchreid": Origin({_RESNET: r"backbone.\1"}, r"classifier\.(weight|bias)", {"last_stride": 2}),
}
"""The projects whose files are known, by name."""


@dataclass(frozen=True, slots=True)
class Converted:
    """The network of a file of another project."""

    weights: dict[str, Tensor]
    """Backbone and neck, by the names of this suite."""
    network: dict[str, Any]
    """Values for the section `teacher.network`."""
    remark: str
    """How it differs from the original; empty if it does not."""


def convert(path: Path, project: str) -> Converted:
    """Read the network of a file of another project.

    Args:
        path: A file of `torch.save` or safetensors. Code in it is not executed.
        project: A name of `ORIGINS`.

    Raises:
        UserError: The project is unknown, the file cannot be read, or the network cannot be built here.
    """
    if project not in ORIGINS:
        raise UserError(f"--as {project}: unknown project{nearest(project, ORIGINS)} Known: {', '.join(ORIGINS)}.")
    origin = ORIGINS[project]
    found = [tensors for _, tensors in named_tensors(read(path, "weights"))]
    tensors = max(found, key=len, default={})
    weights, unknown = {}, []
    for key, value in tensors.items():
        if re.fullmatch(origin.unused, key) or NOT_TRAINED.fullmatch(key):
            continue
        name = next((match.expand(to) for rule, to in origin.rules.items() if (match := re.fullmatch(rule, key))), None)
        if name is None:
            unknown.append(key)
        else:
            weights[name] = value
    if unknown or not weights:
        raise UserError(f"{path} is not a network of {project} that can be used: {_reason(unknown, tensors, project)}")
    network = {**origin.network, "pool": "gem" if "backbone.global_pool.exponent" in weights else "avg"}
    if "neck" not in network:
        network["neck"] = "bn" if "neck.weight" in weights else "none"
    try:
        if "neck.out.weight" in weights:
            network["dim"] = len(weights["neck.out.weight"])
        network |= _vit(weights) if "backbone.cls_token" in weights else _resnet(weights)
    except KeyError as error:
        raise UserError(f"{path} is not a complete network of {project}: it lacks {error.args[0]}") from error
    except (IndexError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{path} is not a network of {project}: its tensors have impossible shapes ({error}): give the file as it "
            "was saved"
        ) from error
    return Converted(weights, network, origin.remark)


def _reason(unknown: list[str], tensors: Mapping[str, Tensor], project: str) -> str:
    """Return why a file is refused, in one clause."""
    for pattern, reason in _REASONS.items():
        if keys := [key for key in unknown if re.fullmatch(pattern, key)]:
            return f"{printable(keys[0])} belongs to {reason}"
    shown = ", ".join(printable(key) for key in (unknown or list(tensors))[:3]) or "no tensors"
    return f"it has {shown}, which no network of {project} has: choose another --as"


def _resnet(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the backbone of a ResNet, by its blocks."""
    blocks = tuple(_number_of(weights, rf"backbone\.layer{stage}\.(\d+)\..+") for stage in range(1, 5))
    bottlenecks = "backbone.layer1.0.conv3.weight" in weights
    if (backbone := _RESNETS.get((blocks, bottlenecks))) is None:
        kind = "bottleneck" if bottlenecks else "basic"
        raise KeyError(f"a known depth, and has {' + '.join(map(str, blocks))} {kind} blocks")
    return {"backbone": backbone}


def _vit(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Return the backbone of a ViT of CLIP, and give its tokens the shapes that timm expects."""
    width, patch = weights["backbone.patch_embed.proj.weight"].shape[0], weights["backbone.patch_embed.proj.weight"]
    weights["backbone.cls_token"] = weights["backbone.cls_token"].reshape(1, 1, width)
    weights["backbone.pos_embed"] = weights["backbone.pos_embed"].reshape(1, -1, width)
    args: dict[str, Any] = {"pre_norm": True, "act_layer": "quick_gelu"}
    shape = {"depth": _number_of(weights, r"backbone\.blocks\.(\d+)\..+"), "embed_dim": width}
    shape |= {"num_heads": width // 64, "patch_size": patch.shape[2]}  # CLIP's heads have 64 channels each
    usual = {"depth": 12, "embed_dim": 768, "num_heads": 12, "patch_size": 16}
    args |= {key: value for key, value in shape.items() if value != usual[key]}
    # Its weights in timm were trained with the mean and standard deviation of CLIP-ReID, 0.5.
    return {"backbone": "vit_base_patch16_224", "args": args}


def _number_of(names: Iterable[str], pattern: str) -> int:
    return len({match[1] for name in names if (match := re.fullmatch(pattern, name))})
