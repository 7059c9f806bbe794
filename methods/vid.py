"""Variational information distillation."""

import math
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.losses import match_size
from benchmark.method import Method, Plan
from benchmark.model.embedder import Embedder, Stages, stage_channels
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import upcast

SMALLEST = 1e-5
"""No channel's variance is less."""


@METHODS.register_module("vid")
class VID(Method):
    """Variational information distillation: the student's maps tell as much as they can about the teacher's.

    Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation for Knowledge Transfer. CVPR 2019.

    Equation: weight * sum over stages of mean 1/2 [(mu(f_s) - f_t)^2 / var_c + log var_c], the mean over all entries:
    the negative log-likelihood of the teacher's map f_t under a normal distribution around mu(f_s), less a constant,
    which bounds the mutual information of both from below. mu is three 1x1 convolutions without bias with ReLU between
    them, and var_c = log(1 + exp(v_c)) + 1e-5, one for every channel c of the teacher, is learnt with the student. It
    starts at 5; the term may become negative. As in RepDistiller, whose weight of 1 is the default: the likelihood
    adapts to the scale of the features by itself. Widths may differ; the larger of two maps is first averaged down to
    the smaller's (h, w), in RepDistiller to a square (h, h).

    Args:
        weight: Factor of the term.
        stages: Where maps are compared.
        variance: What var starts at.
    """

    kind: ClassVar[str] = "feature maps"

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        stages: Stages = (1, 2, 3, 4),
        variance: Annotated[float, Field(gt=SMALLEST)] = 5.0,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.stages = stages
        self.variance = variance
        self.student_taps = self.teacher_taps = [f"stage{stage}" for stage in stages]
        self.guesses = nn.ModuleList()

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        widths = zip(stage_channels(student, self.stages), stage_channels(teacher, self.stages), strict=True)
        self.guesses.extend(Guess(*pair, self.variance) for pair in widths)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        terms = [
            guess(*match_size(student.taps[tap], teacher.taps[tap]))
            for guess, tap in zip(self.guesses, self.student_taps, strict=True)
        ]
        return {"vid": self.weight * torch.stack(terms).sum()}


class Guess(nn.Module):
    """A normal distribution of the teacher's map, given the student's.

    Args:
        inputs: Channels of the student's map.
        outputs: Channels of the teacher's.
        variance: What it starts at.
    """

    def __init__(self, inputs: int, outputs: int, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
        )
        self.log_scale = nn.Parameter(torch.full((outputs,), _before_softplus(variance - SMALLEST)))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """(B, inputs, H, W) and (B, outputs, H, W) -> the scalar term."""
        error = upcast(self.mean(student)) - teacher
        variance = F.softplus(upcast(self.log_scale)).add(SMALLEST)[:, None, None]
        return 0.5 * (error.square() / variance + variance.log()).mean()


def _before_softplus(value: float) -> float:
    """x with log(1 + exp(x)) = value, for a value above 0, without overflow."""
    return value + math.log(-math.expm1(-value))
