"""A compactor, in its place behind a batch-norm."""

import torch
from torch import Tensor, nn


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
