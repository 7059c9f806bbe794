"""Attention transfer."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses import match_size
from benchmark.method import Method
from benchmark.model.embedder import Stages
from benchmark.model.features import Features
from benchmark.registry import METHODS


@METHODS.register_module("at")
class AT(Method):
    """Attention transfer: where in the image a stage is active approaches where the teacher's is.

    Zagoruyko, Komodakis: Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks
    via Attention Transfer. ICLR 2017.

    Equation: weight * sum over stages of mean_b,x (a_s,b,x - a_t,b,x)^2, where a_b, a map over positions x, is mean_c
    |f_c|^p of the stage's output f, L2-normalised for every image b. For odd p the codes' f^p can be negative; here it
    is |f|^p. Widths may differ; the larger of two maps is averaged down to the smaller's (h, w), in RepDistiller to a
    square (h, h). The paper has the norm of the difference, mean_b ||a_s,b - a_t,b||_2, not squared: `form: paper`. The
    mean of squares is what the codes compute (RepDistiller; torchdistill offers both), with a weight of 1000 in
    RepDistiller, the default here. A normalised map knows no scale of features, so the weight holds for other networks,
    but the mean over x makes large maps count less. The preset `paper` is the paper's form with weight 1.

    Args:
        weight: Factor of the term.
        stages: Where maps are compared.
        power: p.
        form: The mean of squares of the authors' `code`, or the norm of the `paper`.
    """

    kind: ClassVar[str] = "feature maps"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"form": "paper", "weight": 1.0}}

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 1000.0,
        stages: Stages = (1, 2, 3, 4),
        power: Annotated[int, Field(ge=1)] = 2,
        form: Literal["code", "paper"] = "code",
    ) -> None:
        super().__init__()
        self.weight = weight
        self.power = power
        self.form = form
        self.student_taps = self.teacher_taps = [f"stage{stage}" for stage in stages]

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        terms = []
        for tap in self.student_taps:
            s, t = match_size(student.taps[tap], teacher.taps[tap])
            difference = attention(s, self.power) - attention(t, self.power)
            if self.form == "paper":
                terms.append(torch.linalg.vector_norm(difference, dim=1).mean())
            else:
                terms.append(difference.square().mean())
        return {"at": self.weight * torch.stack(terms).sum()}


def attention(maps: Tensor, power: int) -> Tensor:
    """(B, C, H, W) -> (B, H * W) of norm 1, or 0 where the maps are 0."""
    return F.normalize(maps.abs().pow(power).mean(dim=1).flatten(1))
