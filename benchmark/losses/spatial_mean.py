"""Global average pooling."""

import torch
from torch import Tensor


def spatial_mean(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C), averaged in float32 at least."""
    return maps.mean((2, 3), dtype=torch.promote_types(maps.dtype, torch.float32))
