"""The inner widths of residual blocks: channels that can be pruned without changing other blocks."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.model.backbone import accepted_size
from benchmark.model.channel_groups import Role, channel_groups
from benchmark.model.cost import Size, count
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.surgery import ChannelSelection, keep_channels, keep_depthwise, keep_inputs, keep_outputs


@dataclass(frozen=True)
class InnerWidth:
    """Channels that one convolution of a block computes and one reads, with a batch norm and activation between them.

    A basic block has one inner width, between its two convolutions. A bottleneck has two: between its first and second,
    and between its second and third convolution. An inverted residual block has one, which its depthwise convolution
    and its gate share. All names of layers are relative to the block.
    """

    block_name: str
    """Name of the block within the backbone."""
    block: nn.Module
    conv_name: str
    norm_name: str
    """The last batch norm before the next convolution."""
    next_conv_name: str
    others: tuple[tuple[str, Role], ...] = ()
    """Further layers with the same channels, see `ChannelGroup`, and anti-aliasing filters."""
    is_last: bool = True
    """Whether the next convolution is the last of the block."""

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution that computes the channels."""
        return self._layer(self.conv_name)

    @property
    def norm(self) -> nn.Module:
        """The normalization of the channels."""
        return self._layer(self.norm_name)

    @property
    def scale(self) -> nn.Parameter:
        """(width,): the scale gamma of the batch norm."""
        assert isinstance(self.norm, nn.BatchNorm2d)
        return self.norm.weight

    @property
    def next_conv(self) -> nn.Conv2d:
        """The convolution that reads the channels."""
        return self._layer(self.next_conv_name)

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
        """Names within the backbone of the other layers whose cost depends on the channels."""
        names = [name for name, _ in self.others if not isinstance(self._layer(name), nn.BatchNorm2d)]
        return [f"{self.block_name}.{name}" for name in (self.next_conv_name, *names)]

    @property
    def biases(self) -> int:
        """Number of biases of the deployed network for each channel: those of folded batch norms and of gates."""
        layers = [(self._layer(name), role) for name, role in self.others]
        return 1 + sum(
            isinstance(layer, nn.Conv2d) if role == "channels" else role == "outputs" and layer.bias is not None
            for layer, role in layers
        )

    def keep(self, index: Tensor) -> list[ChannelSelection]:
        """Keep the channels `index` (int64, ascending) in every layer that has them.

        Returns:
            The parameters that were narrowed.
        """
        assert isinstance(self.norm, nn.BatchNorm2d)
        return [
            *keep_outputs(self.conv, index),
            *keep_channels(self.norm, index),
            *keep_inputs(self.next_conv, index),
            *self.keep_others(index),
        ]

    def keep_others(self, index: Tensor) -> list[ChannelSelection]:
        """Keep the channels `index` (int64, ascending) in the layers `others`, and return the narrowed parameters."""
        from timm.layers import BlurPool2d

        changes: list[ChannelSelection] = []
        for name, role in self.others:
            layer = self._layer(name)
            if isinstance(layer, BlurPool2d):
                layer.channels = len(index)  # the filter of every channel is the same
                layer.filt = layer.get_buffer("filt")[: len(index)]
            elif isinstance(layer, nn.BatchNorm2d):
                changes += keep_channels(layer, index)
            elif role == "channels":
                changes += keep_depthwise(layer, index)
            else:
                changes += keep_inputs(layer, index) if role == "inputs" else keep_outputs(layer, index)
        return changes

    def _layer(self, name: str) -> Any:
        return self.block.get_submodule(name)


def inner_widths(network: Embedder) -> list[InnerWidth]:
    """Return all inner widths of the backbone, in order of execution.

    Raises:
        UserError: There are none, or they have layers that cannot be pruned channel by channel.
    """
    backbone = network.architecture["backbone"]
    widths = all_inner_widths(network)
    for inner in widths:
        if not isinstance(inner.norm, nn.BatchNorm2d):
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


def all_inner_widths(network: Embedder) -> list[InnerWidth]:
    """Return all inner widths of the backbone, in order of execution, whatever their normalization and groups.

    Raises:
        UserError: There are none, or their anti-aliasing layers cannot be narrowed.
    """
    from timm.layers import BlurPool2d
    from timm.models.resnet import BasicBlock, Bottleneck

    backbone = network.architecture["backbone"]
    widths: list[InnerWidth] = []
    for name, block in network.backbone.named_modules():
        # Known without tracing the network, which takes seconds.
        if isinstance(block, BasicBlock | Bottleneck):
            if not isinstance(block.aa, nn.Identity | nn.AvgPool2d | BlurPool2d):
                raise UserError(
                    f"{backbone} has a {type(block.aa).__name__} at {name}.aa, which cannot be narrowed. Choose "
                    "another backbone as teacher.network.backbone."
                )
            blur: tuple[tuple[str, Role], ...] = (("aa", "channels"),) if isinstance(block.aa, BlurPool2d) else ()
            bottleneck = isinstance(block, Bottleneck)
            widths.append(
                InnerWidth(name, block, "conv1", "bn1", "conv2", () if bottleneck else blur, is_last=not bottleneck)
            )
            if bottleneck:
                widths.append(InnerWidth(name, block, "conv2", "bn2", "conv3", blur))
    widths = widths or _traced_inner_widths(network)
    if not widths:
        raise UserError(
            f"{backbone} has no channels that could be pruned: no block in which one plain convolution computes "
            "channels, a batch norm follows, and one plain convolution reads them. Choose another backbone, such as "
            "resnet50, efficientnet_b0 or mobilenetv3_large_100, as teacher.network.backbone."
        )
    return widths


def _traced_inner_widths(network: Embedder) -> list[InnerWidth]:
    """Return the inner widths of a backbone other than a ResNet."""
    from timm.layers import Conv2dSame

    widths: list[InnerWidth] = []
    # Exact types, because a subclass may do more, such as standardize its weights.
    plain = (nn.Conv2d, Conv2dSame)
    groups = channel_groups(network.architecture)
    last = {group.block: group for group in groups}
    for group in groups:
        block = network.backbone.get_submodule(group.block)
        conv, norm, next_conv, *others = (
            name.removeprefix(f"{group.block}.")
            for name in (group.conv, group.norm, group.next_conv, *(name for name, _ in group.others))
        )
        roles = [role for _, role in group.others]
        layers = [block.get_submodule(name) for name in (conv, next_conv, *others)]
        if all(type(layer) in plain or isinstance(layer, nn.BatchNorm2d) for layer in layers):
            widths.append(
                InnerWidth(
                    group.block,
                    block,
                    conv,
                    norm,
                    next_conv,
                    tuple(zip(others, roles, strict=True)),
                    is_last=group is last[group.block],
                )
            )
    return widths


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
    # Folding depends on the order of layers only, so that a small image suffices where any size is accepted.
    fixed = network.backbone.pretrained_cfg.get("fixed_input_size")
    size = accepted_size(network.backbone, network.architecture["args"]) if fixed else (32, 32)
    example = torch.zeros(2, 3, *size, dtype=torch.uint8, device=next(network.parameters()).device)
    return fold_batchnorm(network, example)


def deployed_size(network: Embedder, image_size: tuple[int, int]) -> Size:
    """Return the parameters and MACs of the network after folding its batch norms."""
    return count(folded_copy(network), image_size)
