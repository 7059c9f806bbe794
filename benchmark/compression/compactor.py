"""Compactors, and the sites in residual blocks where they are inserted."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmark.compression.width_cost import PrunedChannels
from benchmark.errors import UserError
from benchmark.model.embedder import Embedder
from benchmark.model.residual_blocks import InnerWidth, residual_blocks
from benchmark.model.surgery import ChannelSelection, keep_inputs, keep_outputs
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


def identity_convolution(channels: int, device: torch.device) -> nn.Conv2d:
    """Create a 1x1 convolution without bias whose output equals its input."""
    convolution = nn.Conv2d(channels, channels, 1, bias=False, device=device)
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(channels)[:, :, None, None])
    return convolution


class CompactedNorm(nn.Module):
    """A batch norm followed by a compactor.

    It replaces the batch norm in a residual block, so that the forward pass of the block needs no change. A method can
    tap `norm` for the features before the compactor, and this module for those behind it.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm
        self.compactor = identity_convolution(norm.num_features, norm.weight.device)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, rows of the compactor, H, W)."""
        return self.compactor(self.norm(maps))


@dataclass(frozen=True)
class RowSite(InnerWidth):
    """A compactor behind the batch norm of an inner width: conv, norm, compactor, activation, next conv.

    Its rows are removed, each together with an input channel of the next convolution.
    """

    dim: ClassVar[int] = 0

    @property
    def name(self) -> str:
        return f"{self.block_name}.{self.norm_name}"

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
    def width(self) -> int:
        norm = self.norm
        if isinstance(norm, CompactedNorm):
            return norm.compactor.out_channels
        assert isinstance(norm, nn.BatchNorm2d)
        return norm.num_features

    def insert(self) -> None:
        assert isinstance(self.norm, nn.BatchNorm2d)
        setattr(self.block, self.norm_name, CompactedNorm(self.norm))

    def keep(self, index: Tensor) -> list[ChannelSelection]:
        self.narrow_blur(len(index))
        return [*keep_outputs(self.compactor, index), *keep_inputs(self.next_conv, index)]

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
        rows = self.compactor.weight.flatten(1)
        conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.norm.eval())
        replacement: nn.Module = self.compactor
        if conv.groups == 1:
            with full_precision(rows.device):
                conv.weight = nn.Parameter(torch.einsum("om,mikl->oikl", rows, conv.weight))
                assert conv.bias is not None
                conv.bias = nn.Parameter(rows @ conv.bias)
            conv.out_channels = len(rows)
            replacement = nn.Identity()
        setattr(self.block, self.conv_name, conv)
        setattr(self.block, self.norm_name, replacement)


def row_sites(network: Embedder, both: bool = False) -> list[RowSite]:
    """Return a site for the last inner width of every residual block of the backbone, in order of execution.

    Args:
        network: A student, before or after compactors are inserted, or a teacher.
        both: Include the first inner width of a bottleneck, unless its second convolution is grouped: the input
            channels of a grouped convolution cannot be removed one by one.

    Raises:
        UserError: The backbone has no residual blocks, or has a normalization that cannot be folded.
    """
    sites = []
    for name, block in residual_blocks(network).items():
        first = RowSite(name, block, "conv1", "bn1", "conv2")
        if first.is_last or (both and first.next_conv.groups == 1):
            sites.append(first)
        if not first.is_last:
            sites.append(RowSite(name, block, "conv2", "bn2", "conv3"))
    for site in sites:
        if not isinstance(site.norm, nn.BatchNorm2d | CompactedNorm):
            backbone = network.architecture["backbone"]
            raise UserError(
                f"{backbone} has a {type(site.norm).__name__} at {site.name}, and a compactor needs a batch norm "
                "before it. Choose another backbone as teacher.network.backbone."
            )
    return sites
