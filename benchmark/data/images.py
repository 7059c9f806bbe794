"""Image files as tensors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from benchmark.data.transforms import eval_transform
from benchmark.errors import UserError


def decode(path: Path) -> Tensor:
    """Decode a file to a (3, H, W) uint8 RGB tensor, turned upright as its EXIF tag says.

    By Pillow, since torchvision's own decoders are deprecated.

    Raises:
        UserError: The file is missing or broken, or Pillow does not read its format.
    """
    try:
        with Image.open(path) as file:
            pixels = np.array(ImageOps.exif_transpose(file).convert("RGB"))
        return torch.from_numpy(pixels).permute(2, 0, 1)
    except (OSError, SyntaxError, ValueError) as error:  # all three are how Pillow says "broken"
        raise UserError(
            f"image {path} cannot be read ({error}): restore it from the dataset's archive, or prepare the dataset anew"
        ) from error


class Images:
    """The images of a split at one size.

    They are decoded and resized once and kept where they fit into `limit`; otherwise every access does it again.

    Args:
        paths: The files.
        size: (height, width) in pixels.
        limit: Bytes that may be kept in memory.

    Raises:
        UserError: A file is broken; raised here or, for images that are not kept, at access.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int], limit: int = 2**30) -> None:
        self.paths = list(paths)
        self.shape = (3, *size)
        self.resize = eval_transform(size)
        self.kept = self._keep(limit)
        """(N, 3, H, W) uint8, or `None` where images are decoded on demand."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """The image as (3, H, W) uint8."""
        return self.resize(decode(self.paths[index])) if self.kept is None else self.kept[index]

    def _keep(self, limit: int) -> Tensor | None:
        if len(self) * torch.Size(self.shape).numel() > limit:
            return None
        kept = torch.empty(len(self), *self.shape, dtype=torch.uint8)
        for index, path in enumerate(self.paths):
            kept[index] = self.resize(decode(path))
        return kept
