"""The first pruner of DEAP, whose columns are removed."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmark import ChannelSelection
from benchmark.compression.compactor import identity_convolution
from benchmark.model.residual_blocks import InnerWidth
from benchmark.model.surgery import keep_channels, keep_inputs, keep_outputs
from benchmark.utils.precision import full_precision


class PrunedActivation(nn.Module):
    """An activation followed by a pruner: a 1x1 convolution without bias that starts as the identity."""

    def __init__(self, act: nn.Module, channels: int, device: torch.device) -> None:
        super().__init__()
        self.act = act
        self.pruner = identity_convolution(channels, device)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, columns of the pruner, H, W) to (B, C, H, W)."""
        return self.pruner(self.act(maps))


@dataclass(frozen=True)
class ColumnSite(InnerWidth):
    """A pruner behind the first activation of a bottleneck: conv1, bn1, act1, pruner, conv2.

    Its columns are removed, each together with an output channel of conv1.
    """

    dim: ClassVar[int] = 1

    @property
    def name(self) -> str:
        return f"{self.block_name}.act1"

    @property
    def pruner(self) -> nn.Conv2d:
        """The inserted pruner."""
        assert isinstance(self.block.act1, PrunedActivation)
        return self.block.act1.pruner

    @property
    def weight(self) -> nn.Parameter:
        assert isinstance(self.pruner.weight, nn.Parameter)
        return self.pruner.weight

    def insert(self) -> None:
        assert isinstance(self.block.act1, nn.Module)
        self.block.act1 = PrunedActivation(self.block.act1, self.width, self.conv.weight.device)

    def keep(self, index: Tensor) -> list[ChannelSelection]:
        assert isinstance(self.norm, nn.BatchNorm2d)
        return [
            *keep_outputs(self.conv, index),
            *keep_channels(self.norm, index),
            *keep_inputs(self.pruner, index),
        ]

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the pruner P into conv2 with kernel K: K'[o, i] = sum_m K[o, m] P[m, i].

        Padding stays zero, because P has no bias.
        """
        columns, conv = self.pruner.weight.flatten(1), self.next_conv
        with full_precision(columns.device):
            conv.weight = nn.Parameter(torch.einsum("omkl,mi->oikl", conv.weight, columns))
        conv.in_channels = columns.shape[1]
        assert isinstance(self.block.act1, PrunedActivation)
        self.block.act1 = self.block.act1.act
