"""Normalised softmax."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CosineHead(nn.Module):
    """A classifier of unit vectors: logits are `scale * cos(embedding, class weight)`.

    Zhai, Wu. Classification is a Strong Baseline for Deep Metric Learning. BMVC 2019.
    """

    def __init__(self, features: int, identities: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(identities, features))
        nn.init.normal_(self.weight, std=0.01)
        self.scale = scale

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, features) -> (B, identities)."""
        return self.scale * F.linear(F.normalize(embedding), F.normalize(self.weight))
