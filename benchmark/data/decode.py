"""Decoding images and augmenting them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor, nn

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


def pixel_hash(path: Path) -> str:
    """SHA-256 of the size and the RGB pixels of an image file."""
    with Image.open(path) as image:
        return array_hash(np.asarray(image.convert("RGB")))


def array_hash(pixels: np.ndarray) -> str:
    """SHA-256 of (H, W, 3) uint8 pixels; equal to `pixel_hash` of a lossless file of them."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def fingerprint(hashes: Mapping[str, str]) -> str:
    """One SHA-256 over file names and their hashes, in sorted order."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


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
    from torchvision.transforms import v2  # takes a second to import, and listing datasets does not need it

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
    from torchvision.transforms import v2

    return v2.Resize(size, antialias=True)
