"""Losses that several methods share."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.utils.precision import full_precision, upcast

_ZERO_NORM = 1e-12
"""A row with a smaller norm counts as zero."""


def l2_normalize(features: Tensor) -> Tensor:
    """x / ||x|| along the last dimension; a zero row stays zero and passes no gradient.

    `torch.nn.functional.normalize` divides such a row by 1e-12, which scales its gradient by 1e12.

    Args:
        features: (..., D).

    Returns:
        The same shape, in float32 at least.
    """
    features = upcast(features)
    norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    zero = norms <= _ZERO_NORM
    return (features / norms.masked_fill(zero, 1)).masked_fill(zero, 0)


def global_avg_pool(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C), averaged in float32 at least."""
    return maps.mean((2, 3), dtype=torch.promote_types(maps.dtype, torch.float32))


MIN_DISTANCE = 1e-6
"""Coincident points are this far apart, by the convention of metric learning codes: sqrt(max(d^2, 1e-12))."""


def pairwise_distance(features: Tensor) -> Tensor:
    """d_ij = max(||x_i - x_j||, 1e-6); coincident rows, and every row with itself, pass no gradient.

    From differences, not from |x|^2 + |y|^2 - 2<x, y>, which loses the digits of near pairs in float32.

    Args:
        features: (B, D).

    Returns:
        (B, B); the diagonal is 1e-6.
    """
    features = upcast(features)
    return torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=MIN_DISTANCE)


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 / B * sum_b KL(p_t || p_s) with p = softmax(z / T): the teacher is the target, natural logarithm.

    The factor T^2 keeps the gradient's size independent of the temperature (Hinton, Vinyals, Dean, 2015).

    Args:
        student_logits: (B, C).
        teacher_logits: (B, C).
        temperature: T > 0.

    Returns:
        A scalar, 0 where both distributions agree.
    """
    student = F.log_softmax(upcast(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(upcast(teacher_logits) / temperature, dim=1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


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
        torch.linalg.vector_norm(upcast(t) - upcast(s), dim=1).mean() for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(norms).sum()


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
    maps = upcast(maps)
    return maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)


def ranked_similarities(student: Tensor, teacher: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Cosines with the K images of the batch that the teacher finds nearest, best first; each image's first is itself.

    S_m = cos(s_i, t_n), T_m = cos(t_i, t_n), n the m-th neighbour of i in the teacher's space: the gallery is the
    teacher's in both, as where a student's query meets a gallery that the teacher embedded.

    Args:
        student: (B, D).
        teacher: (B, D).
        top_k: K; of a smaller batch, all.

    Returns:
        S and T, both (B, min(K, B)); T descends along its rows.
    """
    s, t = l2_normalize(student), l2_normalize(teacher)
    with full_precision(t.device):
        across, within = s @ t.T, t @ t.T
    ranked, order = within.topk(min(top_k, len(t)), dim=1)
    return across.gather(1, order), ranked


def batch_hard_triplet(features: Tensor, labels: Tensor, margin: float, normalize: bool) -> Tensor:
    """mean_a max(0, max_p d(a, p) - min_n d(a, n) + margin): each anchor's furthest positive and nearest negative.

    Hermans, Beyer, Leibe: In Defense of the Triplet Loss for Person Re-Identification, 2017. The anchor counts as its
    own positive, so an identity with one image in the batch pulls nothing; an anchor without negatives counts as 0.
    The mean runs over all anchors, also those that meet the margin.

    Args:
        features: (B, D).
        labels: (B,) identities.
        margin: In units of distance.
        normalize: Whether rows are L2-normalised first.

    Returns:
        A scalar.
    """
    distances = pairwise_distance(l2_normalize(features) if normalize else upcast(features))
    same = labels[:, None] == labels[None, :]
    furthest = distances.masked_fill(~same, -float("inf")).max(dim=1).values
    nearest = distances.masked_fill(same, float("inf")).min(dim=1).values
    return F.relu(furthest - nearest + margin).mean()
