"""Layers and wrappers of embedding networks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.utils.precision import upcast


class GeM(nn.Module):
    """Generalized-mean pooling with a learnable exponent: `(mean x^p)^(1/p)`.

    Radenović, Tolias, Chum. Fine-tuning CNN Image Retrieval with No Human Annotation. TPAMI 2019, equation 3.

    Args:
        exponent: Initial p.
        eps: Lower bound of x.
        flatten: Return (B, C) instead of (B, C, 1, 1).
    """

    def __init__(self, exponent: float = 3.0, eps: float = 1e-6, flatten: bool = True) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(exponent))
        self.eps = eps
        self.flatten = flatten

    def forward(self, maps: Tensor) -> Tensor:
        """Pool (B, C, H, W) feature maps in float32 or float64."""
        powers = upcast(maps).clamp(min=self.eps).pow(self.exponent)
        return powers.mean((2, 3), keepdim=not self.flatten).pow(1 / self.exponent)


class CosineHead(nn.Module):
    """Classifier with normalized weights: logits are `scale * cos(embedding, class weight)`.

    Zhai, Wu. Classification is a Strong Baseline for Deep Metric Learning. BMVC 2019.

    Args:
        features: Embedding size.
        identities: Number of classes.
        scale: Factor of the cosines, the inverse of the softmax temperature.
    """

    def __init__(self, features: int, identities: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(identities, features))
        nn.init.normal_(self.weight, std=0.01)
        self.scale = scale

    def forward(self, embedding: Tensor) -> Tensor:
        """Return the (B, identities) logits of (B, features) embeddings."""
        return self.scale * F.linear(F.normalize(embedding), F.normalize(self.weight))


class FlipTTA(nn.Module):
    """Flip test-time augmentation: the mean of the embeddings of an image and its horizontal mirror image.

    It doubles the cost of the forward pass.

    Args:
        network: Maps (B, 3, H, W) images to (B, D) embeddings.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the (B, D) mean embeddings of (B, 3, H, W) images."""
        mean: Tensor = (self.network(images) + self.network(images.flip(3))) / 2
        return mean
