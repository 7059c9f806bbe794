"""Embeddings of an image and its mirror image."""

from torch import Tensor, nn


class Mirrored(nn.Module):
    """The mean of a network's embeddings of an image and of its mirror image, for (B, 3, H, W) images.

    Test-time augmentation by flipping: what faces left and right alike costs a second pass.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        mirrored: Tensor = (self.network(images) + self.network(images.flip(3))) / 2
        return mirrored
