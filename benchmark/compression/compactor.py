"""A residual block whose inner width a compactor's rows can shrink."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from timm.layers import BlurPool2d
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmark.errors import UserError
from benchmark.model.embedder import Embedder
from benchmark.model.surgery import ChannelSelection, keep_inputs, keep_outputs
from benchmark.utils.precision import full_precision


class CompactedNorm(nn.Module):
    """A batch-norm followed by the compactor: a 1x1 convolution without bias that starts as the identity.

    It replaces the batch-norm in its block, so that the block's own forward pass runs unchanged. CDD's feature distance
    reads `norm`, its gradient resetting this module's output.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm
        self.compactor = identity_convolution(norm.num_features, norm.weight.device)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, rows of the compactor, H, W)."""
        return self.compactor(self.norm(maps))


def identity_convolution(channels: int, device: torch.device) -> nn.Conv2d:
    """A 1x1 convolution without bias that changes nothing."""
    convolution = nn.Conv2d(channels, channels, 1, bias=False, device=device)
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(channels)[:, :, None, None])
    return convolution


class Compactable(Protocol):
    """A place in a network for a compactor, whose rows or columns stand for channels that could be saved."""

    @property
    def dim(self) -> int:
        """0 where rows of the compactor are removed, 1 where columns are."""
        ...

    @property
    def where(self) -> str:
        """Name within the backbone."""
        ...

    @property
    def weight(self) -> nn.Parameter:
        """The compactor's, (out, in, 1, 1), once it is inserted."""
        ...

    @property
    def width(self) -> int:
        """Rows or columns that are left; before it is inserted, channels."""
        ...

    def insert(self) -> None:
        """Put the compactor there; the network's output stays."""
        ...

    def keep(self, index: Tensor) -> list[ChannelSelection]:
        """Keep these rows or columns (int64, ascending), and what makes or reads them; what was narrowed."""
        ...

    def merge(self) -> None:
        """Fold the compactor into the convolution beside it."""
        ...


@dataclass(frozen=True)
class CompactableBlock:
    """conv -> norm -> (compactor) -> activation -> following conv, somewhere in a timm ResNet.

    In a bottleneck these are the second and third convolution, or the first and second, in a basic block the first and
    second.
    """

    name: str
    block: nn.Module
    conv_name: str
    norm_name: str
    following_name: str
    dim: ClassVar[int] = 0

    @property
    def norm_path(self) -> str:
        """Name within the backbone of the batch-norm, or of the `CompactedNorm` in its place."""
        return f"{self.name}.{self.norm_name}"

    @property
    def where(self) -> str:
        return self.norm_path

    @property
    def norm(self) -> nn.Module:
        return getattr(self.block, self.norm_name)

    @property
    def compacted(self) -> CompactedNorm:
        """The batch-norm with its compactor, once inserted."""
        assert isinstance(self.norm, CompactedNorm)
        return self.norm

    @property
    def compactor(self) -> nn.Conv2d:
        return self.compacted.compactor

    @property
    def weight(self) -> nn.Parameter:
        assert isinstance(self.compactor.weight, nn.Parameter)
        return self.compactor.weight

    @property
    def width(self) -> int:
        norm = self.norm
        if isinstance(norm, CompactedNorm):
            return norm.compactor.out_channels
        assert isinstance(norm, nn.BatchNorm2d)
        return norm.num_features

    def insert(self) -> None:
        """Put a compactor behind the batch-norm."""
        assert isinstance(self.norm, nn.BatchNorm2d)
        setattr(self.block, self.norm_name, CompactedNorm(self.norm))

    def keep(self, rows: Tensor) -> list[ChannelSelection]:
        """Keep these rows of the compactor (int64, ascending) and the following convolution's inputs that read them."""
        blur = self.block.aa
        if isinstance(blur, BlurPool2d) and self.is_last:  # filters channel by channel, all alike
            blur.channels = len(rows)
            blur.filt = blur.get_buffer("filt")[: len(rows)]
        return [*keep_outputs(self.compactor, rows), *keep_inputs(getattr(self.block, self.following_name), rows)]

    @property
    def is_last(self) -> bool:
        """Whether the last convolution of the block follows: the one that reads its anti-aliasing, if any."""
        return self.following_name == ("conv3" if isinstance(self.block, Bottleneck) else "conv2")

    @torch.no_grad()
    def merge(self) -> None:
        """Fold batch-norm and compactor into the convolution before them.

        With g = gamma / sqrt(var + eps), m the convolution's and o the compactor's outputs:
        K'[o] = sum_m C[o, m] g_m K[m] and b'[o] = sum_m C[o, m] (beta_m - mean_m g_m). A grouped convolution would
        become dense, which costs more than it saves: there only the batch-norm is folded and the compactor stays, as a
        1x1 convolution.
        """
        rows = self.compactor.weight.flatten(1)
        conv = fuse_conv_bn_eval(getattr(self.block, self.conv_name).eval(), self.compacted.norm.eval())
        replacement: nn.Module = self.compactor
        if conv.groups == 1:
            with full_precision(rows.device):
                conv.weight = nn.Parameter(torch.einsum("om,mikl->oikl", rows, conv.weight))
                conv.bias = nn.Parameter(rows @ conv.bias)
            conv.out_channels = len(rows)
            replacement = nn.Identity()
        setattr(self.block, self.conv_name, conv)
        setattr(self.block, self.norm_name, replacement)


def compactable_blocks(network: Embedder, both: bool = False) -> list[CompactableBlock]:
    """The last inner width of every residual block of the backbone, in order of execution.

    Args:
        network: Whose.
        both: Bottlenecks have two, between their first and second and second and third convolution: list the first too,
            unless the second convolution is grouped, whose inputs cannot be removed one by one.

    Raises:
        UserError: It is not a timm ResNet, or uses a normalisation that cannot be folded.
    """
    blocks = []
    for name, module in network.backbone.named_modules():
        if isinstance(module, Bottleneck):
            if both and module.conv2.groups == 1:
                blocks.append(CompactableBlock(name, module, "conv1", "bn1", "conv2"))
            blocks.append(CompactableBlock(name, module, "conv2", "bn2", "conv3"))
        elif isinstance(module, BasicBlock):
            blocks.append(CompactableBlock(name, module, "conv1", "bn1", "conv2"))
    backbone = network.architecture["backbone"]
    if not blocks:
        raise UserError(
            f"compactors are put into the residual blocks of timm's ResNet family (resnet, resnext, wide_resnet, "
            f"seresnet, ...), and {backbone} has none. Choose such a backbone as teacher.network.backbone."
        )
    for block in blocks:
        if not isinstance(block.norm, nn.BatchNorm2d | CompactedNorm):
            kind = type(block.norm).__name__
            raise UserError(
                f"there must be a batch-norm before each compactor; {backbone} has a {kind} at {block.norm_path}"
            )
        if not isinstance(block.block.aa, nn.Identity | nn.AvgPool2d | BlurPool2d):
            raise UserError(
                f"compactors cannot narrow the {type(block.block.aa).__name__} of {backbone} at {block.name}.aa"
            )
    return blocks
