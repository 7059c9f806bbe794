"""The triplet loss of re-identification."""

import torch.nn.functional as F
from torch import Tensor

from benchmark.losses.pairwise_distance import pairwise_distance
from benchmark.losses.unit_rows import unit_rows
from benchmark.precision import at_least_float32


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
    distances = pairwise_distance(unit_rows(features) if normalize else at_least_float32(features))
    same = labels[:, None] == labels[None, :]
    furthest = distances.masked_fill(~same, -float("inf")).max(dim=1).values
    nearest = distances.masked_fill(same, float("inf")).min(dim=1).values
    return F.relu(furthest - nearest + margin).mean()
