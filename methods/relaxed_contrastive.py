"""Relaxed contrastive loss."""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses import l2_normalize, pairwise_distance
from benchmark.method import Method
from benchmark.model.features import Features
from benchmark.registry import METHODS

Positive = Annotated[float, Field(gt=0)]


@METHODS.register_module("relaxed_contrastive")
class RelaxedContrastive(Method):
    """Relaxed contrastive: pairs attract and repel by the teacher's similarity, in place of labels.

    Kim, Kim, Cho, Kwak: Embedding Transfer with Label Relaxation for Improved Metric Learning. CVPR 2021.

    Equation: weight / B * sum_{i != j} [w_ij * d_ij^2 + (1 - w_ij) * relu(delta - d_ij)^2], over the B images in the
    batch, where w_ij = exp(-|t_i - t_j|^2 / sigma) with t the L2-normalised embeddings of the teacher, and d_ij is
    |s_i - s_j| over its mean in row i with s the student's as they come. Embedding sizes may differ. As in the authors'
    code the mean of a row runs over all B entries, the image itself included, and passes gradient. It is a sum over the
    others in the batch, so it grows with the batch. sigma = delta = 1 are the authors', who train with this loss alone.
    Weight 1 is the plain sum with the task loss; the gradients of both are of one size on glyphs.

    Args:
        weight: Factor of the term.
        sigma: How fast the teacher's similarity falls with squared distance.
        delta: Relative distance beyond which dissimilar pairs no longer repel.
    """

    kind: ClassVar[str] = "sample relations"

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
        alike = torch.exp(-pairwise_distance(l2_normalize(teacher.embedding)).square() / self.sigma)
        own = torch.eye(len(alike), dtype=torch.bool, device=alike.device)
        distances = pairwise_distance(student.embedding).masked_fill(own, 0)
        relative = distances / distances.mean(dim=1, keepdim=True)
        pairs = alike * relative.square() + (1 - alike) * F.relu(self.delta - relative).square()
        return {"relaxed_contrastive": self.weight * pairs.masked_fill(own, 0).sum() / len(pairs)}
