"""The embedding network: a timm backbone with pooling, neck and classifier head."""

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.data.decode import WHITE, Color
from benchmark.errors import UserError
from benchmark.model.backbone import (
    Interpolation,
    Statistics,
    build_backbone,
    check_name,
    pretrained_interpolation,
    pretrained_statistics,
    rgb,
)
from benchmark.model.features import Features, FeatureTaps
from benchmark.model.hub import find_hub_backbone, is_hub
from benchmark.model.layers import CosineHead, GeM
from benchmark.utils.precision import full_precision, upcast

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of RGB values in 0 .. 1."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of RGB values in 0 .. 1."""


class Embedder(nn.Module):
    """A timm backbone, global pooling, a neck that produces the embedding, and a classifier head for training.

    Args:
        backbone: A model name of timm, as in `timm.list_models()`, or `hf-hub:OWNER/NAME`.
        args: Further keyword arguments of that model, for example `{"channels": [32, 64, 128, 256]}`.
        stem: `imagenet` leaves the stem unchanged; `no_pool` removes the max-pooling of a ResNet; `stride1` also sets
            the stride of its first convolution to 1, for small images.
        last_stride: 1 keeps the resolution in the last stage of a ResNet (Luo et al., Bag of Tricks, CVPRW 2019).
        pool: `avg`, or `gem` for generalized-mean pooling.
        neck: `linear` is BN - ReLU - Linear - BN to `dim`; `bn` is a batch norm of the pooled feature; with `none` the
            pooled feature is the embedding.
        dim: Embedding size of the `linear` neck.
        head: `linear`, or `cosine` for a normalized softmax with `scale`.
        scale: Factor of the cosines of the `cosine` head.
        identities: Number of classes of the head; 0 for no head, as in a deployed student.
        image_size: (height, width) to which the network resizes its input; None for no resizing. A student with smaller
            images than its teacher (asymmetric resolution) has its own image size.
        pretrained: Initialize the backbone with timm's published weights (downloads them).
        mean: Mean of the RGB values in 0 .. 1, with which images are normalized. The default is that of the pretrained
            weights if `pretrained`, else ImageNet's.
        std: Standard deviation of the RGB values in 0 .. 1, with the same default.
        interpolation: How images are resized to `image_size`. The default is that of the pretrained weights if
            `pretrained`, else `bilinear`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        args: Mapping[str, Any] | None = None,
        *,
        stem: Literal["imagenet", "no_pool", "stride1"] = "imagenet",
        last_stride: Literal[1, 2] = 2,
        pool: Literal["avg", "gem"] = "avg",
        neck: Literal["linear", "bn", "none"] = "linear",
        dim: int = 512,
        head: Literal["linear", "cosine"] = "linear",
        scale: float = 16.0,
        identities: int = 0,
        image_size: tuple[int, int] | None = None,
        pretrained: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        interpolation: Interpolation | None = None,
    ) -> None:
        super().__init__()
        source, args = backbone, dict(args or {})
        if is_hub(backbone):
            stated = find_hub_backbone(backbone)
            backbone, args = stated.architecture, {**stated.args, **args}
            check_name(backbone)  # not of a plugin, which runs code
        self.input_size: tuple[int, int] | None = None
        """(height, width) of the images for which a deployed network was trained, the only ones that `forward` accepts;
        None for any size."""
        self.background: Color = WHITE
        """What shows through transparent pixels of the images for which a deployed network was trained."""
        self.image_size = tuple(image_size) if image_size else None
        self.architecture: dict[str, Any] = {
            "backbone": backbone,
            "args": args,
            "stem": stem,
            "last_stride": last_stride,
            "pool": pool,
            "neck": neck,
            "dim": dim,
        } | ({"image_size": self.image_size} if image_size else {})
        """Arguments that rebuild the network without its head; part of a student file."""
        known = pretrained_statistics(source) if pretrained else None
        self.statistics: Statistics = known or (IMAGENET_MEAN, IMAGENET_STD)
        """Mean and standard deviation of the RGB values in 0 .. 1, with which images are normalized."""
        if mean is not None and std is not None:
            self.statistics = rgb(mean), rgb(std)
        if self.statistics != (IMAGENET_MEAN, IMAGENET_STD):
            self.architecture |= {"mean": self.statistics[0], "std": self.statistics[1]}
        self.interpolation = interpolation or (pretrained_interpolation(source) if pretrained else "bilinear")
        """How images are resized to `image_size`."""
        if image_size and self.interpolation != "bilinear":
            self.architecture["interpolation"] = self.interpolation
        self.backbone = build_backbone(backbone, args, source if pretrained else None)
        _set_stem(self.backbone, backbone, stem)
        if last_stride == 1:
            _set_last_stride_1(self.backbone, backbone)
        if pool == "gem":
            _set_gem(self.backbone, backbone)
        pooled: int = self.backbone.head_hidden_size
        self.neck = _neck(neck, pooled, dim)
        self.dim: int = dim if neck == "linear" else pooled
        self.head: nn.Module | None = None
        if identities:
            linear = head == "linear"
            self.head = (
                nn.Linear(self.dim, identities, bias=False) if linear else CosineHead(self.dim, identities, scale)
            )
        self.register_buffer("mean", 255 * torch.tensor(self.statistics[0]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(self.statistics[1]).view(3, 1, 1), persistent=False)
        self._taps = FeatureTaps()

    def forward(self, images: Tensor) -> Tensor:
        """Embed images.

        Args:
            images: (B, 3, H, W) uint8 RGB.

        Returns:
            (B, dim) embeddings, not normalized.

        Raises:
            UserError: The images have another type, shape or, for a deployed network, size.
        """
        self._check_input(images)
        embedding = self.embed_normalized(self.normalize(images))
        self._taps.clear()
        return embedding

    def features(self, images: Tensor) -> Features:
        """Compute the pooled feature, embedding, logits and tapped feature maps of (B, 3, H, W) uint8 RGB images."""
        maps, taps = self._taps.forward_features(self.backbone, _channels_last(self.normalize(images)))
        pooled = self.backbone.forward_head(maps, pre_logits=True)
        embedding = self.neck(pooled)
        logits = self._logits(embedding)
        return Features(pooled, embedding, logits, {**taps, **self._taps.collect()})

    def tap(self, names: Sequence[str]) -> None:
        """Include these feature maps in the output of `features`.

        Args:
            names: Stages or module names, as in `FeatureTaps.add`.

        Raises:
            UserError: There is no such stage or module.
        """
        self._taps.add(self.backbone, names, self.architecture["backbone"], self.architecture["args"])

    def extra_repr(self) -> str:
        """Describe input and output."""
        return f"input: {self._expected_input()}, output: (B, {self.dim}) embeddings"

    def _expected_input(self) -> str:
        height, width = self.input_size or ("H", "W")
        return f"(B, 3, {height}, {width}) uint8 RGB images with values from 0 to 255"

    def _check_input(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            actual, remedy = type(images).__name__, "convert it with torch.from_numpy or torchvision"
        else:
            actual, remedy = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}", None
            if images.dtype != torch.uint8:
                remedy = "do not scale or normalize the images, which the network does; keep them in uint8"
            elif images.dim() == 3:
                remedy = "add the dimension of the batch with images[None]"
            elif images.dim() != 4 or images.shape[1] != 3:
                channels_last = images.dim() == 4 and images.shape[3] == 3
                remedy = "use images.permute(0, 3, 1, 2)" if channels_last else "convert them to three channels, RGB"
            elif self.input_size is not None and tuple(images.shape[2:]) != self.input_size:
                remedy = "resize them, or set the network's input_size to None to embed images of any size"
        if remedy is not None:
            raise UserError(f"the network expects {self._expected_input()}, not {actual}: {remedy}")

    def normalize(self, images: Tensor) -> Tensor:
        """Convert (B, 3, H, W) pixels from 0 to 255 to the float32 input of the backbone: resized and normalized."""
        images = images.float()
        if self.image_size and images.shape[2:] != self.image_size:
            images = F.interpolate(images, self.image_size, mode=self.interpolation, antialias=True)
            if self.interpolation == "bicubic":  # which exceeds the range of the pixels at edges
                images = images.clamp(0, 255)
        return (images - self.mean) / self.std

    def embed_normalized(self, pixels: Tensor) -> Tensor:
        """Return the (B, dim) embeddings of what `normalize` returns."""
        maps = self.backbone.forward_features(_channels_last(pixels))
        embedding: Tensor = self.neck(self.backbone.forward_head(maps, pre_logits=True))
        return embedding

    # In bfloat16, cosines would have steps of 0.004 to 0.008, and logits of scale 16 such of 0.06 to 0.12. The context
    # has a lock, which torch.compile does not support.
    @torch.compiler.disable
    def _logits(self, embedding: Tensor) -> Tensor:
        """Return the (B, identities) logits of (B, dim) embeddings in full precision; (B, 0) without a head."""
        embedding = upcast(embedding)
        if self.head is None:
            return embedding[:, :0]
        with full_precision(embedding.device):
            logits: Tensor = self.head(embedding)
        return logits


def _channels_last(pixels: Tensor) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last)


def _neck(kind: str, inputs: int, dim: int) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    if kind == "bn":
        return nn.BatchNorm1d(inputs)
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm1d(inputs),
            act=nn.ReLU(),
            linear=nn.Linear(inputs, dim, bias=False),
            out=nn.BatchNorm1d(dim),
        )
    )


def _set_stem(backbone: Any, name: str, stem: str) -> None:
    if stem == "imagenet":
        return
    if not isinstance(getattr(backbone, "maxpool", None), nn.Module):
        raise UserError(f"stem: {stem} removes the max-pooling after the stem, and {name} has none; use stem: imagenet")
    backbone.maxpool = nn.Identity()
    if stem == "stride1":
        first = next(m for m in backbone.conv1.modules() if isinstance(m, nn.Conv2d))
        first.stride = (1, 1)


def _set_last_stride_1(backbone: Any, name: str) -> None:
    """Change the last stage to what it would be if it had been built with stride 1."""
    from timm.layers import BlurPool2d

    if not isinstance(getattr(backbone, "layer4", None), nn.Sequential):
        raise UserError(
            f"last_stride: 1 changes the stage `layer4` of a ResNet, and {name} has none; use last_stride: 2"
        )
    height = _map_height(backbone)
    block: nn.Module = backbone.layer4[0]
    for path, module in list(block.named_modules()):
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d) and module.stride in (2, (2, 2)):
            module.stride = 1
            if not module.padding:  # it averages the 2 x 2 pixels that become one
                module.kernel_size = 1
        elif isinstance(module, BlurPool2d):
            block.set_submodule(path, nn.Identity())
    if _map_height(backbone) != 2 * height:
        raise UserError(f"last_stride: 1 is not supported for {name}; use last_stride: 2")


def _map_height(backbone: Any) -> int:
    """Return the height of the last feature maps of a 256 x 256 image."""
    shapes = copy.deepcopy(backbone).to("meta").eval()
    return shapes.forward_features(torch.empty(1, 3, 256, 256, device="meta")).shape[2]


def _set_gem(backbone: Any, name: str) -> None:
    from timm.layers import SelectAdaptivePool2d

    average = getattr(backbone, "global_pool", None)
    if not isinstance(average, SelectAdaptivePool2d):
        raise UserError(f"pool: gem replaces a global average pooling, and {name} has none; use pool: avg")
    backbone.global_pool = GeM(flatten=average(torch.zeros(1, 1, 1, 1)).dim() == 2)
