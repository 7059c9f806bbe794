"""The inner width of a bottleneck that DEAP's first pruner can shrink, column by column."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from benchmark.compression.compactor import identity_convolution
from benchmark.model.surgery import ChannelSelection, keep_channels, keep_inputs, keep_outputs
from benchmark.utils.precision import full_precision


class Pruned(nn.Module):
    """An activation followed by the pruner: a 1x1 convolution without bias that starts as the identity."""

    def __init__(self, act: nn.Module, channels: int, device: torch.device) -> None:
        super().__init__()
        self.act = act
        self.pruner = identity_convolution(channels, device)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, columns of the pruner, H, W) -> (B, C, H, W)."""
        return self.pruner(self.act(maps))


@dataclass(frozen=True)
class CompactableColumns:
    """conv1 -> bn1 -> act1 -> (pruner) -> conv2, in a bottleneck of a timm ResNet.

    A column of the pruner is a channel that conv1 makes.
    """

    name: str
    block: Bottleneck
    dim: ClassVar[int] = 1

    @property
    def where(self) -> str:
        return f"{self.name}.act1"

    @property
    def pruner(self) -> nn.Conv2d:
        assert isinstance(self.block.act1, Pruned)
        return self.block.act1.pruner

    @property
    def weight(self) -> nn.Parameter:
        assert isinstance(self.pruner.weight, nn.Parameter)
        return self.pruner.weight

    @property
    def width(self) -> int:
        return self.block.conv1.out_channels

    def insert(self) -> None:
        """Put a pruner behind the activation."""
        self.block.act1 = Pruned(self.block.act1, self.width, self.block.conv1.weight.device)

    def keep(self, columns: Tensor) -> list[ChannelSelection]:
        """Keep these columns of the pruner (int64, ascending), and the channels of conv1 and bn1 that they read."""
        norm = self.block.bn1
        assert isinstance(norm, nn.BatchNorm2d)
        return [
            *keep_outputs(self.block.conv1, columns),
            *keep_channels(norm, columns),
            *keep_inputs(self.pruner, columns),
        ]

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the pruner P into conv2: K'[o, i] = sum_m K[o, m] P[m, i]. Padding stays zero, P having no bias."""
        columns, conv = self.pruner.weight.flatten(1), self.block.conv2
        with full_precision(columns.device):
            conv.weight = nn.Parameter(torch.einsum("omkl,mi->oikl", conv.weight, columns))
        conv.in_channels = columns.shape[1]
        assert isinstance(self.block.act1, Pruned)
        self.block.act1 = self.block.act1.act
