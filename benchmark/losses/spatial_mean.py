"""Global average pooling."""

import torch
from torch import Tensor


def spatial_mean(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C), averaged in float32."""
    return maps.mean((2, 3), dtype=torch.float32)
