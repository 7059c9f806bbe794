"""Compactors, and the sites in blocks of a network where they are inserted."""

from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmark.compression.width_cost import PrunedChannels
from benchmark.errors import UserError
from benchmark.model.embedder import Embedder
from benchmark.model.residual_blocks import InnerWidth, all_inner_widths
from benchmark.model.surgery import ChannelSelection, keep_channels, keep_depthwise, keep_inputs, keep_outputs
from benchmark.utils.precision import full_precision


class CompactorSite(PrunedChannels, Protocol):
    """A place in a network for a compactor. Rows or columns of the compactor stand for channels that can be removed.

    Its width is the number of remaining rows or columns and, before insertion, the number of channels.
    """

    @property
    def dim(self) -> int:
        """0 if rows of the compactor are removed, 1 if columns are."""
        ...

    @property
    def name(self) -> str:
        """Name within the backbone of the module that contains the compactor."""
        ...

    @property
    def weight(self) -> nn.Parameter:
        """The (out, in, 1, 1) weight of the inserted compactor."""
        ...

    def insert(self) -> None:
        """Insert the compactor. The output of the network does not change."""
        ...

    def keep(self, index: Tensor) -> list[ChannelSelection]:
        """Keep the rows or columns `index` (int64, ascending), and the channels they are connected to.

        Returns:
            The parameters that were narrowed.
        """
        ...

    def merge(self) -> None:
        """Fold the compactor into the adjacent convolution."""
        ...


def identity_convolution(channels: int, device: torch.device, groups: int = 1) -> nn.Conv2d:
    """Create a 1x1 convolution without bias whose output equals its input.

    Args:
        channels: Number of channels.
        device: Where its weight is.
        groups: 1, or `channels` for a convolution that only scales each channel.
    """
    convolution = nn.Conv2d(channels, channels, 1, bias=False, device=device, groups=groups)
    weight = torch.eye(channels) if groups == 1 else torch.ones(channels, 1)
    with torch.no_grad():
        convolution.weight.copy_(weight[:, :, None, None])
    return convolution


class CompactedNorm(nn.Module):
    """A batch norm followed by a compactor.

    It replaces the batch norm in a block, so that the forward pass of the block needs no change. A batch norm with an
    activation is split, and the activation follows the compactor. A method can tap `norm` for the features before the
    compactor, and `compactor` for those behind it.

    Args:
        norm: The batch norm.
        mixing: Whether rows of the compactor combine channels. If not, as behind a depthwise convolution, which can be
            combined with nothing else, each row scales one channel.
    """

    def __init__(self, norm: nn.BatchNorm2d, mixing: bool = True) -> None:
        super().__init__()
        channels, device = norm.num_features, norm.weight.device
        self.norm = _without_activation(norm)
        self.compactor = identity_convolution(channels, device, groups=1 if mixing else channels)
        self.act = nn.Identity() if self.norm is norm else norm.get_submodule("act")

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, rows of the compactor, H, W)."""
        return self.act(self.compactor(self.norm(maps)))


def _without_activation(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Return a batch norm with the same parameters and statistics that has no activation."""
    if type(norm) is nn.BatchNorm2d:
        return norm
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum).train(norm.training)
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(plain, name, parameter)
    for name, buffer in norm.named_buffers(recurse=False):
        setattr(plain, name, buffer)
    return plain


@dataclass(frozen=True)
class RowSite(InnerWidth):
    """A compactor behind the batch norm of an inner width: conv, norm, compactor, activation, next conv.

    Its rows are removed, each together with an input channel of the next convolution. A row behind a depthwise
    convolution only scales a channel, which is removed from all layers that have it.
    """

    dim: ClassVar[int] = 0

    @property
    def name(self) -> str:
        return f"{self.block_name}.{self.norm_name}"

    @property
    def normalized(self) -> str:
        """Name within the backbone of the module whose output is the normalized channels before the activation."""
        if isinstance(self.norm, CompactedNorm):
            return f"{self.name}.norm"
        return self.name if type(self.norm) is nn.BatchNorm2d else f"{self.name}.drop"

    @property
    def compactor(self) -> nn.Conv2d:
        """The inserted compactor."""
        assert isinstance(self.norm, CompactedNorm)
        return self.norm.compactor

    @property
    def weight(self) -> nn.Parameter:
        assert isinstance(self.compactor.weight, nn.Parameter)
        return self.compactor.weight

    @property
    def source(self) -> str:
        # The compactor of a grouped convolution is not folded.
        return super().source if self.conv.groups == 1 else self.name

    @property
    def biases(self) -> int:
        return super().biases if self.conv.groups == 1 else super().biases - 1

    @property
    def width(self) -> int:
        norm = self.norm
        if isinstance(norm, CompactedNorm):
            return norm.compactor.out_channels
        assert isinstance(norm, nn.BatchNorm2d)
        return norm.num_features

    @property
    def mixing(self) -> bool:
        """Whether rows of the compactor combine channels."""
        return self._depthwise is None

    @property
    def _depthwise(self) -> str | None:
        """Name of the depthwise convolution before the batch norm."""
        # By its role, because one that was narrowed to a single channel looks like any other convolution.
        names = [name for name, role in self.others if role == "channels" and isinstance(self._layer(name), nn.Conv2d)]
        return names[-1] if names else None

    def insert(self) -> None:
        assert isinstance(self.norm, nn.BatchNorm2d)
        self.block.set_submodule(self.norm_name, CompactedNorm(self.norm, self.mixing))

    def keep(self, index: Tensor) -> list[ChannelSelection]:
        changes = [*keep_inputs(self.next_conv, index), *self.keep_others(index)]
        if self.mixing:
            return [*keep_outputs(self.compactor, index), *changes]
        assert isinstance(self.norm, CompactedNorm)
        return [
            *keep_outputs(self.conv, index),
            *keep_channels(self.norm.norm, index),
            *keep_depthwise(self.compactor, index),
            *changes,
        ]

    @torch.no_grad()
    def merge(self) -> None:
        """Fold batch norm and compactor into the convolution before them.

        With C the compactor, K the kernel of the convolution, m its output channels, o the rows of the compactor, and
        g = gamma / sqrt(var + eps):

            K'[o] = sum_m C[o, m] g_m K[m],  b'[o] = sum_m C[o, m] (beta_m - mean_m g_m)

        A grouped convolution would become dense, which costs more than it saves. There, only the batch norm is folded,
        and the compactor remains as a 1x1 convolution.
        """
        assert isinstance(self.norm, CompactedNorm)
        name = self._depthwise or self.conv_name
        conv = fuse_conv_bn_eval(self._layer(name).eval(), self.norm.norm.eval())
        compactor, activation = self.compactor.weight, self.norm.act
        replacement = activation
        assert conv.bias is not None
        with full_precision(compactor.device):
            if not self.mixing:
                conv.weight = nn.Parameter(compactor * conv.weight)
                conv.bias = nn.Parameter(compactor.flatten() * conv.bias)
            elif conv.groups == 1:
                rows = compactor.flatten(1)
                conv.weight = nn.Parameter(torch.einsum("om,mikl->oikl", rows, conv.weight))
                conv.bias = nn.Parameter(rows @ conv.bias)
                conv.out_channels = len(rows)
            elif isinstance(activation, nn.Identity):
                replacement = self.compactor
            else:
                replacement = nn.Sequential(self.compactor, activation)
        self.block.set_submodule(name, conv)
        self.block.set_submodule(self.norm_name, replacement)


def row_sites(network: Embedder, both: bool = False) -> list[RowSite]:
    """Return a site for the last inner width of every residual block of the backbone, in order of execution.

    Args:
        network: A student, before or after compactors are inserted, or a teacher.
        both: Include the other inner widths of each block, such as the first of a bottleneck. Never included is one
            whose next convolution is grouped: its input channels cannot be removed one by one.

    Raises:
        UserError: The backbone has no channels that can be pruned, or has a normalization that cannot be folded.
    """
    from timm.layers import BatchNormAct2d

    sites = []
    for inner in all_inner_widths(network):
        if inner.next_conv.groups == 1 and (inner.is_last or both):
            sites.append(RowSite(**{field.name: getattr(inner, field.name) for field in fields(inner)}))
    for site in sites:
        if type(site.norm) not in (nn.BatchNorm2d, BatchNormAct2d, CompactedNorm):
            backbone = network.architecture["backbone"]
            raise UserError(
                f"{backbone} has a {type(site.norm).__name__} at {site.name}, and a compactor needs a batch norm "
                "before it. Choose another backbone as teacher.network.backbone."
            )
    return sites
