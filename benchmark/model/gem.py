"""Generalised-mean pooling."""

import torch
from torch import Tensor, nn


class GeM(nn.Module):
    """Generalised-mean pooling with a learnable exponent: `(mean x^p)^(1/p)`.

    Radenović, Tolias, Chum. Fine-tuning CNN Image Retrieval with No Human Annotation. TPAMI 2019, equation 3.
    """

    def __init__(self, exponent: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(exponent))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C), computed in float32."""
        return maps.float().clamp(min=self.eps).pow(self.exponent).mean((2, 3)).pow(1 / self.exponent)
