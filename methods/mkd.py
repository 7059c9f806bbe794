"""Asymmetric relations between attention maps."""

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses import MIN_DISTANCE, match_size
from benchmark.method import Method
from benchmark.model.embedder import Stages
from benchmark.model.features import Features
from benchmark.registry import METHODS

Weight = Annotated[float, Field(ge=0)]


@METHODS.register_module("mkd")
class MKD(Method):
    """MKD: distances of the student's attention maps to the teacher's approach those within the teacher.

    Xie et al.: Distillation Embedded Absorbable Pruning for Fast Object Re-identification. Pattern Recognition 152,
    2024, which calls it asymmetric relation knowledge distillation; MKD is its name in the code.

    Equation, for the B images in the batch: sum over stages of 1 / B * (alpha * sum_i E_ii + beta * sum_(i != j) E_ij),
    with E_ij = (D(t_i, t_j) - D(s_i, t_j))^2 and D(x, y) = max(||x - y||, 1e-6). s_i and t_i are the attention maps of
    image i, mean_c |f_c|^p over the positions of a stage's output f, L2-normalised under `distance: cosine` and left as
    they are under `l2`. Hence E_ii pulls the student's map onto the teacher's. For odd p the code's f^p can be
    negative; here it is |f|^p. Widths may differ; the larger of two maps is averaged down to the smaller's (h, w), in
    the code to a square (h, h). Values and stages are those of the authors' code for VeRi-776, beside cross-entropy and
    triplet loss. As there, the second sum is divided by B, not by B (B - 1), and so grows with the batch. Its cast to
    float32, in which an expanded ||x - y||^2 makes D(t_i, t_i) rounding noise, is not followed.

    Args:
        alpha: Weight of an image with itself.
        beta: Weight of different images.
        stages: Where maps are compared.
        power: p.
        distance: Whether maps are normalised first.
    """

    kind: ClassVar[str] = "feature maps"

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
            errors = (_distances(t, t) - _distances(s, t)).square()
            same = torch.eye(len(s), dtype=torch.bool, device=s.device)
            own.append(errors.diagonal().sum() / len(s))
            other.append(errors.masked_fill(same, 0).sum() / len(s))
        return {"mkd_own": self.alpha * torch.stack(own).sum(), "mkd_other": self.beta * torch.stack(other).sum()}

    def _attention(self, maps: Tensor) -> Tensor:
        """(B, H * W)."""
        attention = maps.abs().pow(self.power).mean(dim=1).flatten(1)
        return F.normalize(attention) if self.distance == "cosine" else attention


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # From differences: the expanded square loses the digits of near pairs, of which the diagonal is made.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=MIN_DISTANCE)
