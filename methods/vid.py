"""Variational information distillation."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark import METHODS, Batch, Embedder, Features, Method, Plan, Range
from benchmark.losses import match_size
from benchmark.model.features import Stages, stage_channels
from benchmark.utils.precision import upcast

MIN_VARIANCE = 1e-5
"""Lower bound of every channel's variance."""


@METHODS.register_module("vid")
class VID(Method):
    """Variational information distillation: maximize the information that the student's maps hold about the teacher's.

    Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation for Knowledge Transfer. CVPR 2019.

    Equation:

        weight * sum over stages of mean 1/2 [(mu(f_s) - f_t)^2 / var_c + log var_c],  var_c = log(1 + exp(v_c)) + 1e-5

    where f_s and f_t are the maps of student and teacher, and the mean runs over all entries. This is, up to a
    constant, the negative log-likelihood of the teacher's map under a normal distribution with mean mu(f_s); minimizing
    it maximizes a lower bound of the mutual information of both maps. mu is three 1x1 convolutions without bias, with
    ReLU between them. The variance var_c of every channel c of the teacher is learned with the student. The term may
    become negative. Channel counts may differ.

    Implementation: as in RepDistiller. Where map sizes differ, the larger map is first average-pooled to the smaller
    one's (h, w); RepDistiller pools to a square (h, h).

    Defaults: weight 1 is RepDistiller's. The likelihood adapts to the scale of the features by itself. The variance
    starts at 5.

    Args:
        weight: Weight of the loss term.
        stages: Stages whose outputs are compared.
        variance: Initial variance of every channel.
    """

    kind: ClassVar[str] = "feature maps"
    maps_per_image = True
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.1, 10), "variance": Range(0.5, 50)}

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        stages: Stages = (1, 2, 3, 4),
        variance: Annotated[float, Field(gt=MIN_VARIANCE)] = 5.0,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.stages = stages
        self.variance = variance
        self.student_taps = self.teacher_taps = [f"stage{stage}" for stage in stages]
        self.guesses = nn.ModuleList()

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        widths = zip(stage_channels(student, self.stages), stage_channels(teacher, self.stages), strict=True)
        self.guesses.extend(GaussianRegressor(*pair, self.variance) for pair in widths)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        terms = [
            regressor(*match_size(student.taps[tap], teacher.taps[tap]))
            for regressor, tap in zip(self.guesses, self.student_taps, strict=True)
        ]
        return {"vid": self.weight * torch.stack(terms).sum()}


class GaussianRegressor(nn.Module):
    """Normal distribution of the teacher's map given the student's.

    Args:
        inputs: Channels of the student's map.
        outputs: Channels of the teacher's map.
        variance: Initial variance of every channel.
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
        self.log_scale = nn.Parameter(torch.full((outputs,), _inverse_softplus(variance - MIN_VARIANCE)))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Compute the mean negative log-likelihood, up to a constant.

        Args:
            student: (B, inputs, H, W).
            teacher: (B, outputs, H, W).

        Returns:
            A scalar.
        """
        error = upcast(self.mean(student)) - teacher
        variance = F.softplus(upcast(self.log_scale)).add(MIN_VARIANCE)[:, None, None]
        return 0.5 * (error.square() / variance + variance.log()).mean()


def _inverse_softplus(value: float) -> float:
    """Solve log(1 + exp(x)) = value for x, with value > 0, without overflow."""
    return value + math.log(-math.expm1(-value))
