"""Attention transfer."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Range
from benchmark.losses import match_size
from benchmark.model.features import Stages


@METHODS.register_module("at")
class AT(Method):
    """Attention transfer: match the spatial attention map of each stage.

    Zagoruyko, Komodakis: Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks
    via Attention Transfer. ICLR 2017.

    Equation:

        weight * sum over stages of mean_{b,x} (a_s[b, x] - a_t[b, x])^2

    where s is the student, t the teacher, and a[b, x] the attention map of image b at position x: mean_c |f[b, c, x]|^p
    over the channels c of the stage's output f, L2-normalized over the positions of each image. Channel counts may
    differ.

    Implementation: the paper takes the norm of the difference without squaring it, mean_b ||a_s[b] - a_t[b]||_2
    (`form: paper`). The released codes take the mean of squares (RepDistiller; torchdistill offers both), which is the
    default (`form: code`). For odd p their f^p can be negative; here it is |f|^p. Where map sizes differ, the larger
    map is average-pooled to the smaller one's (h, w); RepDistiller pools to a square (h, h).

    Defaults: weight 1000 is RepDistiller's for the mean of squares. A normalized map does not depend on the scale of
    the features, so the weight holds for other networks, but the mean over x gives large maps less weight. The preset
    `paper` is the paper's form with weight 1.

    Args:
        weight: Weight of the loss term.
        stages: Stages whose outputs are compared.
        power: Exponent p of the attention map.
        form: `code` for the mean of squares of the released codes, `paper` for the norm of the paper.
    """

    kind: ClassVar[str] = "feature maps"
    maps_per_image = True
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(100, 10000)}
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
            difference = _attention(s, self.power) - _attention(t, self.power)
            if self.form == "paper":
                terms.append(torch.linalg.vector_norm(difference, dim=1).mean())
            else:
                terms.append(difference.square().mean())
        return {"at": self.weight * torch.stack(terms).sum()}


def _attention(maps: Tensor, power: int) -> Tensor:
    """Compute (B, H * W) attention maps of norm 1 from (B, C, H, W); all-zero maps stay zero."""
    return F.normalize(maps.abs().pow(power).mean(dim=1).flatten(1))
