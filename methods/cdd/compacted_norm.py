"""CDD's compactor, in its place behind a batch-norm."""

import torch
from torch import Tensor, nn


class CompactedNorm(nn.Module):
    """A batch-norm followed by the compactor: a 1x1 convolution without bias that starts as the identity.

    It replaces the batch-norm in its block, so that the block's own forward pass runs unchanged. `norm` is what CDD's
    feature distance reads, this module's output what its gradient resetting reads.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        channels = norm.num_features
        self.norm = norm
        self.compactor = nn.Conv2d(channels, channels, 1, bias=False, device=norm.weight.device)
        with torch.no_grad():
            self.compactor.weight.copy_(torch.eye(channels)[:, :, None, None])

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, rows of the compactor, H, W)."""
        return self.compactor(self.norm(maps))
