"""Relational knowledge distillation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses import l2_normalize, pairwise_distance
from benchmark.method import Method
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import full_precision, upcast

Weight = Annotated[float, Field(ge=0)]


@METHODS.register_module("rkd")
class RKD(Method):
    """Relational knowledge distillation: distances and angles between embeddings approach the teacher's.

    Park, Kim, Lu, Cho: Relational Knowledge Distillation. CVPR 2019.

    Equation: w_d * mean_ij huber(psi_s - psi_t) + w_a * mean_ijk huber(a_s - a_t), where i, j and k are of the B images
    in the batch, huber(x) is x^2 / 2 up to |x| = 1 and |x| - 1/2 beyond, psi_ij is the distance of i and j over the
    mean distance in the batch, and a_ijk the cosine of the angle at i between j and k. Embedding sizes may differ. The
    paper sums over distinct pairs and triples; here, as in the authors' code, the final means run over all B^2 and B^3
    entries, degenerate ones (equal on both sides) included. Weights 25 and 50 are those that codes use beside a task
    loss (RepDistiller, mdistiller, AIR_Distiller). The preset `metric_learning` is the authors' 1 and 2, for training
    without one.

    Args:
        distance_weight: w_d.
        angle_weight: w_a.
        normalize: Whether the embeddings are L2-normalised first. The authors' student is not.
    """

    kind: ClassVar[str] = "sample relations"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "metric_learning": {"distance_weight": 1.0, "angle_weight": 2.0}
    }

    def __init__(self, distance_weight: Weight = 25.0, angle_weight: Weight = 50.0, normalize: bool = False) -> None:
        super().__init__()
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight
        self.normalize = normalize

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        prepared = l2_normalize if self.normalize else upcast
        s, t = prepared(student.embedding), prepared(teacher.embedding)
        return {
            "rkd_distance": self.distance_weight * F.smooth_l1_loss(relative_distances(s), relative_distances(t)),
            "rkd_angle": self.angle_weight * F.smooth_l1_loss(angles(s), angles(t)),
        }


def relative_distances(features: Tensor) -> Tensor:
    """(B, B): distances over their mean; the mean excludes the diagonal, which is 0, but passes gradient."""
    rows = len(features)
    distances = pairwise_distance(features)
    distances = distances.masked_fill(torch.eye(rows, dtype=torch.bool, device=features.device), 0)
    return distances / (distances.sum() / (rows * (rows - 1)))


def angles(features: Tensor) -> Tensor:
    """(B, B, B): entry ijk is the cosine at i between j and k, 0 without gradient where i coincides with j or k.

    The authors' code divides a coincident pair's zero difference by 1e-12, which scales its gradient by 1e12.
    """
    differences = features[None] - features[:, None]
    norms = torch.linalg.vector_norm(differences, dim=2, keepdim=True)
    same = norms <= 1e-12
    directions = (differences / norms.masked_fill(same, 1)).masked_fill(same, 0)
    with full_precision(features.device):
        return directions @ directions.mT
