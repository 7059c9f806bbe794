"""The distance between blocks of teacher and student, of CDD and DEAP."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmark.precision import at_least_float32


def feature_distance(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """sum over blocks of mean_b ||g_t,b - g_s,b||_2, the norm not squared; no gradient where the difference is zero.

    g is the spatial mean of the convolution that the block's compactor follows, after its batch-norm; the student's is
    taken before the compactor, so that it keeps the teacher's width however far the compactor has shrunk.

    Args:
        student: One (B, width) tensor per block.
        teacher: The same shapes.

    Returns:
        A scalar.
    """
    norms = [
        torch.linalg.vector_norm(at_least_float32(t) - at_least_float32(s), dim=1).mean()
        for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(norms).sum()
