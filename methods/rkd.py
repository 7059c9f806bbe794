"""Relational knowledge distillation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Range
from benchmark.losses import l2_normalize, pairwise_distance
from benchmark.utils.precision import full_precision, upcast

Weight = Annotated[float, Field(ge=0)]


@METHODS.register_module("rkd")
class RKD(Method):
    """Relational knowledge distillation: match distances and angles between embeddings.

    Park, Kim, Lu, Cho: Relational Knowledge Distillation. CVPR 2019.

    Equation:

        w_d * mean_ij huber(psi_s[i, j] - psi_t[i, j]) + w_a * mean_ijk huber(a_s[i, j, k] - a_t[i, j, k])

    where i, j and k run over the B images in the batch, s is the student and t the teacher, psi[i, j] is the distance
    between i and j divided by the mean distance in the batch, a[i, j, k] is the cosine of the angle at i between j and
    k, and huber(x) is x^2 / 2 up to |x| = 1 and |x| - 1/2 beyond. Embedding sizes may differ.

    Implementation: the paper sums over distinct pairs and triples. Here, as in the authors' code, the final means run
    over all B^2 and B^3 entries, including degenerate ones, which are equal in student and teacher.

    Defaults: weights 25 and 50 are used by codes that add the terms to a task loss (RepDistiller, mdistiller,
    AIR_Distiller). The preset `metric_learning` has the authors' 1 and 2, for training without a task loss.

    Args:
        distance_weight: Weight w_d of the distances.
        angle_weight: Weight w_a of the angles.
        normalize: Whether to L2-normalize the embeddings first. The authors do not normalize the student's.
    """

    kind: ClassVar[str] = "sample relations"
    search: ClassVar[Mapping[str, Range]] = {"distance_weight": Range(2.5, 250), "angle_weight": Range(5, 500)}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "metric_learning": {"distance_weight": 1.0, "angle_weight": 2.0}
    }

    def __init__(self, distance_weight: Weight = 25.0, angle_weight: Weight = 50.0, normalize: bool = False) -> None:
        super().__init__()
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight
        self.normalize = normalize

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        prepare = l2_normalize if self.normalize else upcast
        s, t = prepare(student.embedding), prepare(teacher.embedding)
        return {
            "rkd_distance": self.distance_weight * F.smooth_l1_loss(relative_distances(s), relative_distances(t)),
            "rkd_angle": self.angle_weight * F.smooth_l1_loss(angles(s), angles(t)),
        }


def relative_distances(features: Tensor) -> Tensor:
    """Compute (B, B) distances of (B, D) rows divided by their mean.

    The mean excludes the diagonal, which is 0, and passes gradient.
    """
    rows = len(features)
    distances = pairwise_distance(features)
    distances = distances.masked_fill(torch.eye(rows, dtype=torch.bool, device=features.device), 0)
    return distances / (distances.sum() / (rows * (rows - 1)))


def angles(features: Tensor) -> Tensor:
    """Compute (B, B, B) cosines of (B, D) rows: entry ijk is the cosine of the angle at i between j and k.

    The entry is 0, without gradient, where i coincides with j or k. The authors' code divides the zero difference of
    such a pair by 1e-12, which scales its gradient by 1e12.
    """
    differences = features[None] - features[:, None]
    norms = torch.linalg.vector_norm(differences, dim=2, keepdim=True)
    coincident = norms <= 1e-12
    directions = (differences / norms.masked_fill(coincident, 1)).masked_fill(coincident, 0)
    with full_precision(features.device):
        return directions @ directions.mT
