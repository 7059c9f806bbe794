"""Small pictures of images."""

from pathlib import Path

from PIL import Image

from benchmark.data.decode import BrokenImage, decode

SIDE = 96
"""The longer side of a thumbnail, at most, in pixels."""


def thumbnail(path: Path) -> Image.Image | None:
    """The image in its own shape, no larger than `SIDE` by `SIDE` and never enlarged; None where it is broken."""
    try:
        image = Image.fromarray(decode(path, (SIDE, SIDE)).permute(1, 2, 0).numpy())
    except BrokenImage:
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image
