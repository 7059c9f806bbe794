"""Euclidean distances within a batch."""

import torch
from torch import Tensor

from benchmark.precision import at_least_float32

SMALLEST = 1e-6
"""Coincident points are this far apart, by the convention of metric learning codes: sqrt(max(d^2, 1e-12))."""


def pairwise_distance(features: Tensor) -> Tensor:
    """d_ij = max(||x_i - x_j||, 1e-6); coincident rows, and every row with itself, pass no gradient.

    From differences, not from |x|^2 + |y|^2 - 2<x, y>, which loses the digits of near pairs in float32.

    Args:
        features: (B, D).

    Returns:
        (B, B); the diagonal is 1e-6.
    """
    features = at_least_float32(features)
    return torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=SMALLEST)
