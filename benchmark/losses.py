"""Losses, distances and normalizations that several methods share."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.utils.precision import full_precision, upcast

ZERO_NORM = 1e-12
"""A row with a norm up to this value counts as zero."""
MIN_DISTANCE = 1e-6
"""Lower bound of distances, as in metric learning codes: sqrt(max(d^2, 1e-12))."""


def l2_normalize(features: Tensor) -> Tensor:
    """L2-normalize the last dimension: x / ||x||. A zero row remains zero and has no gradient.

    Args:
        features: (..., D).

    Returns:
        The same shape, in float32 or float64.
    """
    # torch.nn.functional.normalize divides a zero row by 1e-12, which multiplies its gradient by 1e12.
    features = upcast(features)
    norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    zero = norms <= ZERO_NORM
    return (features / norms.masked_fill(zero, 1)).masked_fill(zero, 0)


def global_avg_pool(maps: Tensor) -> Tensor:
    """Average (B, C, H, W) feature maps to (B, C), in float32 or float64."""
    return maps.mean((2, 3), dtype=torch.promote_types(maps.dtype, torch.float32))


def pairwise_distance(features: Tensor, others: Tensor | None = None) -> Tensor:
    """Compute the Euclidean distances of all pairs of rows: d_ij = max(||x_i - y_j||, 1e-6).

    Identical rows, and every row with itself, have no gradient.

    Args:
        features: (B, D), the rows x_i.
        others: (C, D), the rows y_j; `features` by default.

    Returns:
        (B, C) distances.
    """
    # |x|^2 + |y|^2 - 2 <x, y> would lose the digits of small distances in float32.
    features = upcast(features)
    others = features if others is None else upcast(others)
    return torch.cdist(features, others, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=MIN_DISTANCE)


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Compute T^2 / B * sum_b KL(p_t || p_s), where p = softmax(z / T).

    The factor T^2 keeps the size of the gradient independent of the temperature (Hinton, Vinyals, Dean, 2015).

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: T > 0.

    Returns:
        A scalar, 0 if the distributions are equal.
    """
    student = F.log_softmax(upcast(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(upcast(teacher_logits) / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def feature_distance(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Compute sum over blocks of mean_b ||t_b - s_b||_2. The norm is not squared; a zero difference has no gradient.

    Args:
        student: For each block (B, C) pooled features.
        teacher: The same shapes.

    Returns:
        A scalar.
    """
    norms = [
        torch.linalg.vector_norm(upcast(t) - upcast(s), dim=1).mean() for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(norms).sum()


def match_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two feature maps to the height and width of the smaller.

    Height and width are matched separately: maps of 4 x 8 and 8 x 4 both become 4 x 4. RepDistiller pools to a square
    of the smaller height, which would distort the 2:1 images of pedestrians.

    Args:
        student: (B, C, H, W).
        teacher: (B, C', H', W').

    Returns:
        (B, C, h, w) and (B, C', h, w) in float32 or float64, where h = min(H, H') and w = min(W, W').
    """
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return _pool(student, size), _pool(teacher, size)


def _pool(maps: Tensor, size: tuple[int, int]) -> Tensor:
    maps = upcast(maps)
    return maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)


def ranked_similarities(student: Tensor, teacher: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Compute the cosines to the K images of the batch that are nearest in the teacher's space, in descending order.

    With n the m-th nearest image to image i in the teacher's space, which includes i itself: S_im = cos(s_i, t_n) and
    T_im = cos(t_i, t_n). The gallery is the teacher's in both, as in asymmetric retrieval.

    Args:
        student: (B, D) embeddings.
        teacher: (B, D) embeddings.
        top_k: K; a smaller batch is used as a whole.

    Returns:
        S and T, both (B, min(K, B)); the rows of T are in descending order.
    """
    s, t = l2_normalize(student), l2_normalize(teacher)
    with full_precision(t.device):
        across, within = s @ t.T, t @ t.T
    ranked, order = within.topk(min(top_k, len(t)), dim=1)
    return across.gather(1, order), ranked


def batch_hard_triplet(features: Tensor, labels: Tensor, margin: float, normalize: bool) -> Tensor:
    """Compute the batch-hard triplet loss: mean_a max(0, max_p d(a, p) - min_n d(a, n) + margin).

    Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017.

    The anchor is one of its own positives, which matters for an identity with one image in the batch. An anchor without
    negatives counts as 0. The mean includes anchors that satisfy the margin.

    Args:
        features: (B, D).
        labels: (B,) identities.
        margin: In units of distance.
        normalize: L2-normalize the rows first.

    Returns:
        A scalar.
    """
    distances = pairwise_distance(l2_normalize(features) if normalize else upcast(features))
    same = labels[:, None] == labels[None, :]
    hardest_positive = distances.masked_fill(~same, -float("inf")).max(dim=1).values
    hardest_negative = distances.masked_fill(same, float("inf")).min(dim=1).values
    return F.relu(hardest_positive - hardest_negative + margin).mean()
