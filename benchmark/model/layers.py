"""Small layers: GeM pooling, the cosine classifier, flip test-time augmentation."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class FlipTTA(nn.Module):
    """The mean of a network's embeddings of an image and of its mirror image, for (B, 3, H, W) images.

    Test-time augmentation by flipping: what faces left and right alike costs a second pass.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        mirrored: Tensor = (self.network(images) + self.network(images.flip(3))) / 2
        return mirrored
