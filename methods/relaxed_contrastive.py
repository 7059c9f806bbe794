"""Relaxed contrastive loss."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Range
from benchmark.losses import l2_normalize, pairwise_distance

Positive = Annotated[float, Field(gt=0)]


@METHODS.register_module("relaxed_contrastive")
class RelaxedContrastive(Method):
    """Relaxed contrastive loss: attract and repel pairs by the teacher's similarity instead of labels.

    Kim, Kim, Cho, Kwak: Embedding Transfer with Label Relaxation for Improved Metric Learning. CVPR 2021.

    Equation:

        weight / B * sum_{i != j} [w_ij * d_ij^2 + (1 - w_ij) * relu(delta - d_ij)^2]

        w_ij = exp(-|t_i - t_j|^2 / sigma),  d_ij = |s_i - s_j| / mean_j |s_i - s_j|

    where i and j run over the B images in the batch, t are the L2-normalized embeddings of the teacher, and s those of
    the student, not normalized. Embedding sizes may differ.

    Implementation: as in the authors' code, the mean of a row runs over all B entries, the image itself included, and
    passes gradient. The loss sums over the other images of the batch, so it grows with the batch size.

    Defaults: sigma = delta = 1 are the authors', who train with this loss alone. Weight 1 is the plain sum with the
    task loss; the gradients of both are about equally large on glyphs.

    Args:
        weight: Weight of the loss term.
        sigma: Bandwidth of the teacher's similarity, in units of squared distance.
        delta: Relative distance beyond which dissimilar pairs no longer repel.
    """

    kind: ClassVar[str] = "sample relations"
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.1, 10), "delta": Range(0.3, 3)}

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        sigma: Positive = 1.0,
        delta: Positive = 1.0,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.sigma, self.delta = sigma, delta

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        similarity = torch.exp(-pairwise_distance(l2_normalize(teacher.embedding)).square() / self.sigma)
        diagonal = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
        distances = pairwise_distance(student.embedding).masked_fill(diagonal, 0)
        relative = distances / distances.mean(dim=1, keepdim=True)
        pairs = similarity * relative.square() + (1 - similarity) * F.relu(self.delta - relative).square()
        return {"relaxed_contrastive": self.weight * pairs.masked_fill(diagonal, 0).sum() / len(pairs)}
