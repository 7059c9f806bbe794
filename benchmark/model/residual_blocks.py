"""The inner widths of residual blocks: channels of a ResNet that can be pruned without changing other blocks."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.model.cost import Size, count
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.surgery import ChannelSelection, keep_channels, keep_inputs, keep_outputs


@dataclass(frozen=True)
class InnerWidth:
    """The channels between two consecutive convolutions of a residual block: conv, norm, activation, next conv.

    Only the next convolution reads them. A basic block has one inner width, between its two convolutions. A bottleneck
    has two: between its first and second, and between its second and third convolution.
    """

    block_name: str
    """Name of the block within the backbone."""
    block: nn.Module
    conv_name: str
    norm_name: str
    next_conv_name: str

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution that computes the channels."""
        return getattr(self.block, self.conv_name)

    @property
    def norm(self) -> nn.Module:
        """The normalization of the channels."""
        return getattr(self.block, self.norm_name)

    @property
    def scale(self) -> nn.Parameter:
        """(width,): the scale gamma of the batch norm."""
        assert isinstance(self.norm, nn.BatchNorm2d)
        return self.norm.weight

    @property
    def next_conv(self) -> nn.Conv2d:
        """The convolution that reads the channels."""
        return getattr(self.block, self.next_conv_name)

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.conv.out_channels

    @property
    def source(self) -> str:
        """Name within the backbone of the layer that computes the channels in the deployed network."""
        return f"{self.block_name}.{self.conv_name}"

    @property
    def readers(self) -> list[str]:
        """Names within the backbone of the layers that read the channels and whose cost depends on them."""
        from timm.layers import BlurPool2d

        blurred = self.is_last and isinstance(self.block.aa, BlurPool2d)
        return [f"{self.block_name}.{name}" for name in (self.next_conv_name, *(["aa"] if blurred else []))]

    def keep(self, index: Tensor) -> list[ChannelSelection]:
        """Keep the channels `index` (int64, ascending) in every layer that has them.

        Returns:
            The parameters that were narrowed.
        """
        assert isinstance(self.norm, nn.BatchNorm2d)
        self.narrow_blur(len(index))
        return [
            *keep_outputs(self.conv, index),
            *keep_channels(self.norm, index),
            *keep_inputs(self.next_conv, index),
        ]

    @property
    def is_last(self) -> bool:
        """Whether the next convolution is the last of the block. An anti-aliasing layer, if any, is in front of it."""
        last = "conv3" if hasattr(self.block, "conv3") else "conv2"
        return self.next_conv_name == last

    def narrow_blur(self, channels: int) -> None:
        """Narrow the anti-aliasing filter before the next convolution, if there is one, to a number of channels."""
        from timm.layers import BlurPool2d

        blur = self.block.aa
        if isinstance(blur, BlurPool2d) and self.is_last:
            blur.channels = channels  # the filter of every channel is the same
            blur.filt = blur.get_buffer("filt")[:channels]


def inner_widths(network: Embedder) -> list[InnerWidth]:
    """Return all inner widths of the backbone, in order of execution.

    Raises:
        UserError: The backbone has no residual blocks, or they have layers that cannot be pruned channel by channel.
    """
    backbone = network.architecture["backbone"]
    widths: list[InnerWidth] = []
    for name, block in residual_blocks(network).items():
        widths.append(InnerWidth(name, block, "conv1", "bn1", "conv2"))
        if hasattr(block, "conv3"):
            widths.append(InnerWidth(name, block, "conv2", "bn2", "conv3"))
    for inner in widths:
        if type(inner.norm) is not nn.BatchNorm2d:
            raise UserError(
                f"{backbone} has a {type(inner.norm).__name__} at {inner.block_name}.{inner.norm_name}, and channel "
                "pruning needs batch norms there. Choose another backbone as teacher.network.backbone."
            )
        if inner.conv.groups > 1 or inner.next_conv.groups > 1:
            raise UserError(
                f"{backbone} has grouped convolutions at {inner.block_name}, which cannot be pruned channel by "
                "channel. Choose another backbone as teacher.network.backbone."
            )
    return widths


def residual_blocks(network: Embedder) -> dict[str, nn.Module]:
    """Return timm's residual blocks in the backbone by name, in order of execution.

    Raises:
        UserError: There are none, or their anti-aliasing layers cannot be narrowed.
    """
    from timm.layers import BlurPool2d
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    backbone = network.architecture["backbone"]
    blocks: dict[str, nn.Module] = {
        name: module for name, module in network.backbone.named_modules() if isinstance(module, BasicBlock | Bottleneck)
    }
    if not blocks:
        kind = type(network.backbone).__name__
        if isinstance(network.backbone, ResNet):  # with blocks such as those of Res2Net
            kind += f" with blocks of the class {type(network.backbone.get_submodule('layer1.0')).__name__}"
        raise UserError(
            f"{backbone} has no residual blocks of timm's class ResNet (BasicBlock or Bottleneck), whose channels are "
            f"pruned: its class is {kind}. Choose a ResNet, such as resnet50, wide_resnet50_2 or seresnet50, as "
            "teacher.network.backbone."
        )
    for name, block in blocks.items():
        if not isinstance(block.aa, nn.Identity | nn.AvgPool2d | BlurPool2d):
            raise UserError(
                f"{backbone} has a {type(block.aa).__name__} at {name}.aa, which cannot be narrowed. Choose another "
                "backbone as teacher.network.backbone."
            )
    return blocks


def build(*, inner_widths: Sequence[int] | None = None, **arguments: Any) -> Embedder:
    """Build a network, perhaps with reduced inner widths, for which it has the first channels of the backbone.

    Args:
        inner_widths: See `set_inner_widths`; None for those of the backbone.
        arguments: Arguments of `Embedder`.

    Raises:
        UserError: The backbone does not exist, or does not have what the arguments require.
    """
    network = Embedder(**arguments)
    if inner_widths is not None:
        set_inner_widths(network, inner_widths)
    return network


def narrowed_copy(network: Embedder, widths: Sequence[int]) -> Embedder:
    """Return a copy in eval mode with other inner widths, which keeps the first channels of each.

    Args:
        network: The network; it is not changed.
        widths: A number of channels for each of `inner_widths(network)`.
    """
    narrow = copy.deepcopy(network).eval()
    set_inner_widths(narrow, widths)
    return narrow


def set_inner_widths(network: Embedder, widths: Sequence[int]) -> None:
    """Narrow a network in place to its first channels.

    Args:
        network: A network of residual blocks.
        widths: A number of channels for each of `inner_widths(network)`.

    Raises:
        UserError: The numbers do not fit the network.
    """
    present = inner_widths(network)
    if len(widths) != len(present):
        raise UserError(
            f"inner_widths: {len(widths)} numbers are given, but {network.architecture['backbone']} has {len(present)} "
            "inner widths with these args"
        )
    for inner, width in zip(present, widths, strict=True):
        if width > inner.width:
            place = f"{inner.block_name}.{inner.conv_name}"
            raise UserError(f"inner_widths: {place} has {inner.width} channels, which is fewer than {width}")
        if width < inner.width:
            inner.keep(torch.arange(width))


def folded_copy(network: Embedder) -> Embedder:
    """Return a copy in eval mode with folded batch norms."""
    # Folding depends on the order of layers only, and every ResNet accepts this image size.
    example = torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device=next(network.parameters()).device)
    return fold_batchnorm(network, example)


def deployed_size(network: Embedder, image_size: tuple[int, int]) -> Size:
    """Return the parameters and MACs of the network after folding its batch norms."""
    return count(folded_copy(network), image_size)
