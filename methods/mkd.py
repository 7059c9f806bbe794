"""Asymmetric relation distillation of attention maps."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Range
from benchmark.losses import match_size, pairwise_distance
from benchmark.model.features import Stages

Weight = Annotated[float, Field(ge=0)]


@METHODS.register_module("mkd")
class MKD(Method):
    """MKD: match distances between attention maps of student and teacher to those within the teacher.

    Xie et al.: Distillation Embedded Absorbable Pruning for Fast Object Re-identification. Pattern Recognition 152,
    2024, which calls it asymmetric relation knowledge distillation; MKD is its name in the code.

    Equation:

        sum over stages of 1 / B * (alpha * sum_i E[i, i] + beta * sum_{i != j} E[i, j])

        E[i, j] = (D(t_i, t_j) - D(s_i, t_j))^2,  D(x, y) = max(||x - y||, 1e-6)

    where i and j run over the B images in the batch, and s_i and t_i are the attention maps of image i: mean_c |f[c]|^p
    at every position of a stage's output f in student and teacher, L2-normalized with `distance: cosine` and unchanged
    with `distance: l2`. E[i, i] therefore trains the student's map to equal the teacher's. Channel counts may differ.

    Implementation: as in the authors' code, the second sum is divided by B, not by B (B - 1), so it grows with the
    batch size. For odd p the code's f^p can be negative; here it is |f|^p. Where map sizes differ, the larger map is
    average-pooled to the smaller one's (h, w); the code pools to a square (h, h). The code's cast to float32 is not
    followed: with an expanded ||x - y||^2 it turns D(t_i, t_i) into rounding noise.

    Defaults: those of the authors' code for VeRi-776, used with cross-entropy and triplet loss.

    Args:
        alpha: Weight of the distance between both maps of one image.
        beta: Weight of the distances between maps of different images.
        stages: Stages whose outputs are compared.
        power: Exponent p of the attention map.
        distance: `cosine` to L2-normalize the maps first, `l2` to leave them unchanged.
    """

    kind: ClassVar[str] = "feature maps"
    search: ClassVar[Mapping[str, Range]] = {"alpha": Range(1, 100), "beta": Range(0.1, 10)}

    def __init__(
        self,
        alpha: Weight = 10.0,
        beta: Weight = 1.0,
        stages: Stages = (3, 4),
        power: Annotated[int, Field(ge=1)] = 2,
        distance: Literal["cosine", "l2"] = "cosine",
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.power = power
        self.distance = distance
        self.student_taps = self.teacher_taps = [f"stage{stage}" for stage in stages]

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        own, other = [], []
        for tap in self.student_taps:
            s, t = (self._attention(maps) for maps in match_size(student.taps[tap], teacher.taps[tap]))
            errors = (pairwise_distance(t) - pairwise_distance(s, t)).square()
            diagonal = torch.eye(len(s), dtype=torch.bool, device=s.device)
            own.append(errors.diagonal().sum() / len(s))
            other.append(errors.masked_fill(diagonal, 0).sum() / len(s))
        return {"mkd_own": self.alpha * torch.stack(own).sum(), "mkd_other": self.beta * torch.stack(other).sum()}

    def _attention(self, maps: Tensor) -> Tensor:
        """Compute (B, H * W) attention maps from (B, C, H, W)."""
        attention = maps.abs().pow(self.power).mean(dim=1).flatten(1)
        return F.normalize(attention) if self.distance == "cosine" else attention
