"""L2-normalisation whose gradient is finite at zero."""

import torch
from torch import Tensor

from benchmark.precision import at_least_float32

SMALLEST = 1e-12
"""A row with a smaller norm counts as zero."""


def unit_rows(features: Tensor) -> Tensor:
    """x / ||x|| along the last dimension; a zero row stays zero and passes no gradient.

    `torch.nn.functional.normalize` divides such a row by 1e-12, which scales its gradient by 1e12.

    Args:
        features: (..., D).

    Returns:
        The same shape, in float32 at least.
    """
    features = at_least_float32(features)
    norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    zero = norms <= SMALLEST
    return (features / norms.masked_fill(zero, 1)).masked_fill(zero, 0)
