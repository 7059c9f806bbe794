"""Image files as tensors."""

from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from benchmark.errors import UserError

_SIDEWAYS = range(5, 9)
"""EXIF orientations under which width and height change places."""


class BrokenImage(UserError):
    """An image file that cannot be decoded."""


def decode(path: Path, at_least: tuple[int, int] | None = None) -> Tensor:
    """Decode a file to a (3, H, W) uint8 RGB tensor, turned upright as its EXIF tag says.

    By Pillow, since torchvision's own decoders are deprecated. Grey, palette and CMYK images become RGB; what is
    transparent is shown as if it were not; 16 bits per channel become 8.

    Args:
        path: The file.
        at_least: (height, width) to which the image is going to be reduced. A JPEG of twice that size or more is then
            decoded at a half, a quarter or an eighth of its size, which takes a fraction of the time.

    Raises:
        BrokenImage: The file is missing or damaged, or Pillow does not read its format.
    """
    try:
        with Image.open(path) as file:
            if at_least is not None and file.format == "JPEG":
                sideways = file.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
                height, width = reversed(at_least) if sideways else at_least
                file.draft(None, (width, height))
            pixels = np.array(_rgb(ImageOps.exif_transpose(file)))
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise BrokenImage(f"image {path} cannot be read: {str(error) or repr(error)}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("it has more than 16 bits per channel")
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("it has floating-point pixels")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
