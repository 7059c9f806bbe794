"""The parts of two images that make their embeddings similar."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

GRID = 8
"""Number of rows and of columns of a saliency map."""
_BATCH = 64


class Saliency(NamedTuple):
    """How much of the similarity of two images depends on each part of them: (GRID, GRID) for each image."""

    first: Tensor
    second: Tensor


@torch.inference_mode()
def saliency(network: Callable[[Tensor], Tensor], first: Tensor, second: Tensor) -> Saliency:
    """Measure by how much the cosine similarity of two images falls when a part of one of them is hidden.

    A square of 2 x 2 cells of the grid is filled with the mean color of the image, at every position. The value of a
    cell is the mean over the squares that cover it. This needs no gradients and works for every network (Zeiler and
    Fergus, ECCV 2014).

    Args:
        network: Maps (B, 3, H, W) uint8 images to (B, D) embeddings; in eval mode.
        first: (3, H, W) uint8 image, on the device of the network.
        second: The other image.
    """
    images = torch.stack([first, second])
    reference = _embed(network, images)
    similarity = reference[0] @ reference[1]
    return Saliency(
        *(
            _mean_over_squares(similarity - _embed(network, _with_hidden_parts(image)) @ other)
            for image, other in zip(images, reference.flip(0), strict=True)
        )
    )


def _embed(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return torch.cat([F.normalize(network(part).float()) for part in images.split(_BATCH)])


def _with_hidden_parts(image: Tensor) -> Tensor:
    """Return ((GRID - 1)^2, 3, H, W) copies of a (3, H, W) image, each with one hidden square, in row-major order."""
    height, width = image.shape[1:]
    fill = image.float().mean((1, 2)).round().to(image.dtype)[:, None, None]
    copies = image.repeat((GRID - 1) ** 2, 1, 1, 1)
    for index in range(len(copies)):
        row, column = divmod(index, GRID - 1)
        rows = slice(row * height // GRID, (row + 2) * height // GRID)
        columns = slice(column * width // GRID, (column + 2) * width // GRID)
        copies[index, :, rows, columns] = fill
    return copies


def _mean_over_squares(values: Tensor) -> Tensor:
    """Return the mean for each cell of the values of the squares that cover it."""
    squares = values.reshape(1, 1, GRID - 1, GRID - 1)
    kernel = torch.ones(1, 1, 2, 2, dtype=values.dtype, device=values.device)
    total = F.conv_transpose2d(squares, kernel)
    return (total / F.conv_transpose2d(torch.ones_like(squares), kernel))[0, 0]
