"""Decoding, resizing and augmenting images."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor, nn

from benchmark.errors import UserError

IMAGENET_MEAN_COLOR = (124, 116, 104)
"""Mean RGB color of ImageNet, the fill color of random erasing."""
_SIDEWAYS = range(5, 9)
"""EXIF orientations that swap width and height."""


class BrokenImage(UserError):
    """An image file that cannot be decoded."""


def decode(path: Path, min_size: tuple[int, int] | None = None) -> Tensor:
    """Decode an image file to a (3, H, W) uint8 RGB tensor, upright according to its EXIF orientation.

    Grayscale, palette and CMYK images are converted to RGB, alpha channels are dropped, and 16 bits per channel are
    reduced to 8.

    Args:
        path: The image file.
        min_size: (height, width) in pixels that the caller needs; None for the full size. A JPEG of at least twice
            that size is decoded at 1/2, 1/4 or 1/8 of its size, which takes a fraction of the time.

    Raises:
        BrokenImage: The file is missing or damaged, or Pillow does not read its format.
    """
    try:
        with Image.open(path) as file:  # Pillow, because torchvision's decoders are deprecated
            if min_size is not None and file.format == "JPEG":
                sideways = file.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
                height, width = reversed(min_size) if sideways else min_size
                file.draft(None, (width, height))
            pixels = np.array(_to_rgb(ImageOps.exif_transpose(file)))
    except Exception as error:  # Pillow raises many types of errors for damaged files
        raise BrokenImage(f"image {path} cannot be read: {str(error) or repr(error)}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def eval_transform(size: tuple[int, int]) -> nn.Module:
    """Return the transform for evaluation: resize a (3, H, W) uint8 image to (height, width)."""
    from torchvision.transforms import v2  # takes a second to import

    return v2.Resize(size, antialias=True)


def train_transform(
    size: tuple[int, int],
    pad: int = 0,
    flip: float = 0.0,
    erase: float = 0.0,
    pad_mode: Literal["constant", "edge", "reflect"] = "constant",
) -> nn.Module:
    """Return the augmentation of a resized (3, H, W) uint8 image: random crop, horizontal flip and erasing.

    Args:
        size: (height, width) of the image in pixels, which augmentation does not change.
        pad: Pixels to add on every side before a random crop back to `size`.
        flip: Probability of a horizontal flip.
        erase: Probability of erasing a random rectangle of 2 to 40 % of the area (Zhong et al., AAAI 2020).
        pad_mode: What padding adds: black, the color of the edge, or the reflected image.
    """
    from torchvision.transforms import v2

    steps: list[nn.Module] = []
    if pad:
        steps.append(v2.RandomCrop(size, padding=pad, padding_mode=pad_mode))
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if erase:
        fill = list(IMAGENET_MEAN_COLOR)
        steps.append(v2.RandomErasing(erase, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), value=fill))
    return v2.Compose(steps) if steps else nn.Identity()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which `convert` would clip at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("it has more than 16 bits per channel")
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("it has floating-point pixels")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
