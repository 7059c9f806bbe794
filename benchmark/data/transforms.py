"""Augmentation of single uint8 images. Normalisation is the model's own first step, on the device."""

from typing import Literal

from torch import nn
from torchvision.transforms import v2

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean, the colour that random erasing leaves."""


def train_transform(
    size: tuple[int, int],
    pad: int = 0,
    flip: float = 0.0,
    erase: float = 0.0,
    pad_mode: Literal["constant", "edge", "reflect"] = "constant",
) -> nn.Module:
    """Random shift, mirror and erasing of a (3, H, W) uint8 image that has been resized already; zeros are skipped.

    Args:
        size: (height, width) of the image, before and after.
        pad: Pixels that are added on every side before a crop back to `size`.
        flip: Probability of mirroring left and right.
        erase: Probability of painting over a random rectangle (Zhong et al., AAAI 2020), 2 to 40 % of the area.
        pad_mode: What is added: black, the edge's colour, or the mirrored image.
    """
    steps: list[nn.Module] = []
    if pad:
        steps.append(v2.RandomCrop(size, padding=pad, padding_mode=pad_mode))
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if erase:
        steps.append(v2.RandomErasing(erase, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), value=list(MEAN_COLOUR)))
    return v2.Compose(steps) if steps else nn.Identity()


def eval_transform(size: tuple[int, int]) -> nn.Module:
    """Resize a (3, H, W) uint8 image to (height, width), whatever its shape: all that happens before evaluation."""
    return v2.Resize(size, antialias=True)
