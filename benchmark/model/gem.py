"""Generalised-mean pooling."""

import torch
from torch import Tensor, nn


class GeM(nn.Module):
    """Generalised-mean pooling with a learnable exponent: `(mean x^p)^(1/p)`.

    Radenović, Tolias, Chum. Fine-tuning CNN Image Retrieval with No Human Annotation. TPAMI 2019, equation 3.
    """

    def __init__(self, exponent: float = 3.0, eps: float = 1e-6, flatten: bool = True) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(exponent))
        self.eps = eps
        self.flatten = flatten

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C), or (B, C, 1, 1) where `flatten` is false, computed in float32."""
        powers = maps.float().clamp(min=self.eps).pow(self.exponent)
        return powers.mean((2, 3), keepdim=not self.flatten).pow(1 / self.exponent)
