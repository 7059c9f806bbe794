"""The stages of a backbone, as `Embedder.tap` counts them."""

import copy
import inspect
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import timm
import torch
from pydantic import AfterValidator, Field
from timm.layers import BlurPool2d, SelectAdaptivePool2d
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.errors import UserError, nearest
from benchmark.model.features import Features
from benchmark.model.layers import CosineHead, GeM

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Embedder(nn.Module):
    """A timm backbone, global pooling, a neck that makes the embedding, and a classifier head used in training only.

    Args:
        backbone: Any name in `timm.list_models()`.
        args: Further keyword arguments of that model, for example `{"channels": [32, 64, 128, 256]}`.
        stem: `imagenet` leaves the stem as it is; `no_pool` drops a ResNet's max-pooling; `stride1` drops it and the
            first convolution's stride too (small images).
        last_stride: 1 keeps the resolution of a ResNet's last stage (Luo et al., Bag of Tricks, CVPRW 2019).
        pool: `avg`, or `gem` for generalised-mean pooling.
        neck: `linear` is BN - ReLU - Linear - BN to `dim`; `bn` is a batch-norm of the pooled feature.
        dim: Size of the embedding under the `linear` neck.
        head: `linear`, or `cosine` for normalised softmax with `scale`.
        identities: Classes of the head; 0 builds none, as in a deployed student.
        image_size: (height, width) to which images are resized first; None takes them as they come. A student that
            looks at smaller images than its teacher (asymmetric resolution) is such a network.
        pretrained: Start the backbone from timm's published weights (a download).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        args: Mapping[str, Any] | None = None,
        stem: Literal["imagenet", "no_pool", "stride1"] = "imagenet",
        last_stride: Literal[1, 2] = 2,
        pool: Literal["avg", "gem"] = "avg",
        neck: Literal["linear", "bn"] = "linear",
        dim: int = 512,
        head: Literal["linear", "cosine"] = "linear",
        scale: float = 16.0,
        identities: int = 0,
        image_size: tuple[int, int] | None = None,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.image_size = tuple(image_size) if image_size else None
        self.architecture: dict[str, Any] = {
            "backbone": backbone,
            "args": dict(args or {}),
            "stem": stem,
            "last_stride": last_stride,
            "pool": pool,
            "neck": neck,
            "dim": dim,
        } | ({"image_size": self.image_size} if image_size else {})
        """Arguments that build the embedding network again; see `benchmark.model.serialize`."""
        self.backbone = _backbone(backbone, dict(args or {}), pretrained)
        _set_stem(self.backbone, stem)
        if last_stride == 1:
            _keep_last_resolution(self.backbone, backbone)
        if pool == "gem":
            average = getattr(self.backbone, "global_pool", None)
            if not isinstance(average, SelectAdaptivePool2d):
                raise UserError(f"pool: gem takes the place of a global average, which {backbone} does not have")
            self.backbone.global_pool = GeM(flatten=average(torch.zeros(1, 1, 1, 1)).dim() == 2)
        pooled: int = self.backbone.head_hidden_size
        self.neck = _linear_neck(pooled, dim) if neck == "linear" else nn.BatchNorm1d(pooled)
        self.dim: int = dim if neck == "linear" else pooled
        self.head: nn.Module | None = None
        if identities:
            linear = head == "linear"
            self.head = (
                nn.Linear(self.dim, identities, bias=False) if linear else CosineHead(self.dim, identities, scale)
            )
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        self._taps: dict[str, tuple[nn.Module, nn.Module | None]] = {}

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, dim) embeddings, not normalised."""
        embedding = self.neck(self._pooled(images))
        self._forget_taps()  # nobody asked: let the maps go
        return embedding

    def features(self, images: Tensor) -> Features:
        """(B, 3, H, W) uint8 RGB -> pooled feature, embedding, logits and the requested taps."""
        pooled = self._pooled(images)
        embedding = self.neck(pooled)
        logits = embedding[:, :0] if self.head is None else self.head(embedding)
        taps = {name: _tapped(name, *place) for name, place in self._taps.items()}
        self._forget_taps()
        return Features(pooled, embedding, logits, taps)

    def tap(self, names: Sequence[str]) -> None:
        """Return the outputs of these stages ("stage1" is the first) or modules of the backbone from `features`.

        "stage1:pre" is what the activation that ends the stage gets: in a residual block, the sum. Where no activation
        ends it, as with linear bottlenecks, it is the output.

        Raises:
            UserError: There is no such stage or module.
        """
        if not names:
            return
        modules = dict(self.backbone.named_modules())
        stages = {f"stage{i}": info["module"] for i, info in enumerate(self.backbone.feature_info[-4:], start=1)}
        for module in modules.values():
            if hasattr(module, "inplace"):  # or the activation would overwrite what was tapped
                module.inplace = False
        for name in names:
            place, _, before = name.partition(":")
            path = stages.get(place, place)
            if path not in modules or before not in ("", "pre"):
                known = [*stages, *modules]
                raise UserError(
                    f"{self.architecture['backbone']} has no stage or module {name!r}{nearest(name, known)}"
                )
            last = _last_activation(modules[path]) if before else None
            modules[path].register_forward_hook(_record)
            if last is not None:
                last.register_forward_hook(_record_activation)
            self._taps[name] = modules[path], last

    def _forget_taps(self) -> None:
        for module, activation in self._taps.values():
            module.__dict__.pop("tapped", None)
            if activation is not None:
                activation.__dict__.pop("activated", None)

    def _pooled(self, images: Tensor) -> Tensor:
        images = images.float()
        if self.image_size and images.shape[2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode="bilinear", antialias=True)
        normal = (images - self.mean) / self.std
        maps = self.backbone.forward_features(normal.contiguous(memory_format=torch.channels_last))
        return self.backbone.forward_head(maps, pre_logits=True)


def _record(module: nn.Module, inputs: Any, output: Any) -> None:
    if not isinstance(output, Tensor):  # several branches
        return
    # ChannelSelection on the module, not in a closure, so that a deep copy of the network records for itself.
    module.__dict__["tapped"] = output, output._version


def _record_activation(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    module.__dict__["activated"] = inputs[0], inputs[0]._version, output


def _tapped(name: str, module: nn.Module, activation: nn.Module | None) -> Tensor:
    if "tapped" not in module.__dict__:
        raise UserError(f"{name} gives no tensor of features, or takes no part in a pass through the network")
    output, version = module.__dict__["tapped"]
    if activation is not None:
        before, before_version, after = activation.__dict__["activated"]
        if after is output:
            output, version = before, before_version
    if output._version != version:
        raise RuntimeError(f"the output of {name} is modified in place by a later layer: tap another module")
    return output


def _last_activation(module: nn.Module) -> nn.Module | None:
    """The one activation that can be the end of `module`: that of its last block; None if the block has none."""
    while children := list(module.children()):
        activations = [child for child in children if "activation" in type(child).__module__]
        if activations:
            return activations[-1]
        module = children[-1]
    return None


def _backbone(name: str, args: dict[str, Any], pretrained: bool) -> Any:
    if not timm.is_model(name):
        raise UserError(f"unknown backbone {name!r}{nearest(name, timm.list_models())} See `benchmark list backbones`.")
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **args)
    except Exception as error:
        if pretrained and isinstance(error, OSError | RuntimeError):
            raise UserError(
                f"the pretrained weights of {name} could not be loaded ({error}). "
                "Give a local file, or `random`, as teacher.network.weights and student.weights."
            ) from error
        if not args:
            raise
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown:
            with torch.device("meta"):
                known = inspect.signature(type(timm.create_model(name))).parameters
            raise UserError(f"{name} has no argument {unknown[1]!r}{nearest(unknown[1], known)}") from error
        raise UserError(f"{name} cannot be built with args {args}: {error}") from error


def _linear_neck(inputs: int, dim: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm1d(inputs),
            act=nn.ReLU(),
            linear=nn.Linear(inputs, dim, bias=False),
            out=nn.BatchNorm1d(dim),
        )
    )


def _set_stem(backbone: Any, stem: str) -> None:
    if stem == "imagenet":
        return
    if not isinstance(getattr(backbone, "maxpool", None), nn.Module):
        raise UserError(f"stem: {stem} needs a ResNet-like backbone with a max-pooling after its stem")
    backbone.maxpool = nn.Identity()
    if stem == "stride1":
        first = next(m for m in backbone.conv1.modules() if isinstance(m, nn.Conv2d))
        first.stride = (1, 1)


def _keep_last_resolution(backbone: Any, name: str) -> None:
    """Make the last stage as if it had been built with stride 1."""
    if not isinstance(getattr(backbone, "layer4", None), nn.Sequential):
        raise UserError(f"last_stride: 1 needs a ResNet-like backbone with a `layer4`; give {name} last_stride: 2")
    height = _height(backbone)
    block: nn.Module = backbone.layer4[0]
    for path, module in list(block.named_modules()):
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d) and module.stride in (2, (2, 2)):
            module.stride = 1
            if not module.padding:  # an average over the 2 x 2 pixels that become one
                module.kernel_size = 1
        elif isinstance(module, BlurPool2d):
            block.set_submodule(path, nn.Identity())
    if _height(backbone) != 2 * height:
        raise UserError(f"last_stride: 1 is not known how to do for {name}; give last_stride: 2")


def _height(backbone: Any) -> int:
    """Rows of the feature maps of a 256 x 256 image."""
    shapes = copy.deepcopy(backbone).to("meta").eval()
    return shapes.forward_features(torch.empty(1, 3, 256, 256, device="meta")).shape[2]


def _ascending(stages: tuple[int, ...]) -> tuple[int, ...]:
    if any(first >= second for first, second in pairwise(stages)):
        raise ValueError("each stage once, the shallowest first")
    return stages


Stages = Annotated[tuple[Annotated[int, Field(ge=1, le=4)], ...], Field(min_length=1), AfterValidator(_ascending)]
"""The type of a method's argument that names stages: at least one of 1 to 4, each once, in ascending order."""


def stage_channels(network: Embedder, stages: Sequence[int]) -> list[int]:
    """Channels of the maps that the taps "stage1", "stage2", ... of `network` give.

    Args:
        network: Teacher or student.
        stages: Counted from 1: the last four levels that timm lists for the backbone.

    Raises:
        UserError: The backbone has no such stage.
    """
    levels: list[dict[str, int]] = list(network.backbone.feature_info)[-4:]
    for stage in stages:
        if not 1 <= stage <= len(levels):
            backbone = network.architecture["backbone"]
            raise UserError(f"{backbone} has no stage {stage}: its stages are 1 to {len(levels)}")
    return [levels[stage - 1]["num_chs"] for stage in stages]
