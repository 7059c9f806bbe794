"""The inner widths of residual blocks: what a ResNet can lose without a change of what its blocks exchange."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from timm.layers import BlurPool2d
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.model.cost import Size, count
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.surgery import ChannelSelection, keep_channels, keep_inputs, keep_outputs


@dataclass(frozen=True)
class InnerWidth:
    """conv -> norm -> activation -> following conv, inside a residual block.

    A bottleneck has two of these, between its first and second and its second and third convolution; a basic block has
    one. The channels between the two convolutions are read by nothing else.
    """

    path: str
    """Name of the block within the backbone."""
    block: nn.Module
    conv_name: str
    norm_name: str
    following_name: str

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution that makes the channels."""
        return getattr(self.block, self.conv_name)

    @property
    def norm(self) -> nn.BatchNorm2d:
        """Their batch-norm."""
        return getattr(self.block, self.norm_name)

    @property
    def following(self) -> nn.Conv2d:
        """The convolution that reads them."""
        return getattr(self.block, self.following_name)

    @property
    def width(self) -> int:
        """How many there are."""
        return self.conv.out_channels

    def keep(self, channels: Tensor) -> list[ChannelSelection]:
        """Keep these channels (int64, ascending) everywhere; the parameters that were narrowed."""
        blur = getattr(self.block, "aa", None)
        if isinstance(blur, BlurPool2d) and self.reads_blurred:  # filters channel by channel, all alike
            blur.channels = len(channels)
            blur.filt = blur.get_buffer("filt")[: len(channels)]
        return [
            *keep_outputs(self.conv, channels),
            *keep_channels(self.norm, channels),
            *keep_inputs(self.following, channels),
        ]

    @property
    def reads_blurred(self) -> bool:
        """Whether the block's anti-aliasing, if any, lies between the two convolutions."""
        return self.conv_name == ("conv2" if isinstance(self.block, Bottleneck) else "conv1")


def inner_widths(network: Embedder, method: str) -> list[InnerWidth]:
    """All inner widths of the backbone, in order of execution.

    Args:
        network: Whose.
        method: Who asks, for messages.

    Raises:
        UserError: It is not a timm ResNet, or has layers whose channels cannot be removed one by one.
    """
    backbone = network.architecture["backbone"]
    widths: list[InnerWidth] = []
    for path, block in network.backbone.named_modules():
        if isinstance(block, Bottleneck):
            widths.append(InnerWidth(path, block, "conv1", "bn1", "conv2"))
            widths.append(InnerWidth(path, block, "conv2", "bn2", "conv3"))
        elif isinstance(block, BasicBlock):
            widths.append(InnerWidth(path, block, "conv1", "bn1", "conv2"))
    if not widths:
        raise UserError(
            f"{method} narrows the residual blocks of timm's ResNet family (resnet, wide_resnet, seresnet, ...), and "
            f"{backbone} has none. Choose such a backbone as teacher.network.backbone."
        )
    for inner in widths:
        place = f"of {backbone} at {inner.path}"
        if type(inner.norm) is not nn.BatchNorm2d:
            raise UserError(
                f"{method} needs batch-norms in the residual blocks; the {inner.norm_name} {place} is a "
                f"{type(inner.norm).__name__}"
            )
        if inner.conv.groups > 1 or inner.following.groups > 1:
            raise UserError(
                f"{method} removes channels one by one, which the grouped convolution {place} does not allow"
            )
        if not isinstance(inner.block.aa, nn.Identity | nn.AvgPool2d | BlurPool2d):
            raise UserError(f"{method} cannot narrow the {type(inner.block.aa).__name__} {place}")
    return widths


def narrowed(network: Embedder, widths: Sequence[int]) -> Embedder:
    """A copy in eval mode whose inner widths are these, one for each of `inner_widths`; the first channels are kept."""
    smaller = copy.deepcopy(network).eval()
    for inner, width in zip(inner_widths(smaller, "it"), widths, strict=True):
        inner.keep(torch.arange(width))
    return smaller


def deployed_size(network: Embedder, image_size: tuple[int, int], widths: Sequence[int] | None = None) -> Size:
    """What `network` costs once batch-norms are folded; with other inner widths, where they are given."""
    plain = network if widths is None else narrowed(network, widths)
    # The smallest input that passes through any ResNet; folding looks at which layer follows which.
    example = torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device=next(network.parameters()).device)
    return count(fold_batchnorm(plain, example), image_size)


def fewest(most: int, enough: Callable[[int], bool]) -> int:
    """The smallest number in 0 .. `most` with which it is `enough`, which it stays with larger ones; else `most`.

    By bisection: how many channels have to go, in a given order, until a network is cheap enough.
    """
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
