"""Feature maps of one size."""

import torch.nn.functional as F
from torch import Tensor

from benchmark.precision import at_least_float32


def match_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps, the larger one averaged down to the height and width of the smaller.

    By adaptive average pooling, as RepDistiller does. Its target is a square, (h, h) with h the smaller height, also
    where maps are not square, which would distort pedestrians of 2:1; here it is the smaller map's own (h, w). Each
    side counts by itself: maps of 4 x 8 and 8 x 4 both become 4 x 4.

    Args:
        student: (B, C, H, W).
        teacher: (B, C', H', W').

    Returns:
        (B, C, h, w) and (B, C', h, w) in float32 at least, with h = min(H, H') and w = min(W, W').
    """
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return _pool(student, size), _pool(teacher, size)


def _pool(maps: Tensor, size: tuple[int, int]) -> Tensor:
    maps = at_least_float32(maps)
    return maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)
