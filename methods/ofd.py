"""Overhaul of feature distillation."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark import METHODS, Batch, Embedder, Features, Method, Plan, Range, RecipePlan, UserError
from benchmark.losses import match_size
from benchmark.model.features import Stages, stage_channels
from benchmark.utils.precision import upcast


@METHODS.register_module("ofd")
class OFD(Method):
    """Overhaul of feature distillation: match the teacher's positive responses before the last ReLU of each stage.

    Heo, Kim, Yun, Park, Kwak, Choi: A Comprehensive Overhaul of Feature Distillation. ICCV 2019.

    Equation:

        weight * sum over stages j = 0 .. n - 1 of 2^-(n - j - 1) / B * sum over all entries of d

        d = (r(s) - t')^2 where r(s) > t' or t' > 0, and 0 elsewhere,  t' = max(t, m_c)

    where B is the number of images in the batch, s and t are the maps of student and teacher before the activation that
    ends the stage (the stage's output if there is none), and r is a 1x1 convolution followed by batch norm. A negative
    response of the teacher thus only requires that the student's does not exceed it. The margin m_c of channel c is the
    mean of the negative half of a normal distribution, whose mean and standard deviation are the bias and the scale of
    the batch norm that ends the teacher's stage; it is -3 standard deviations where less than a thousandth of the
    distribution is negative. In a residual block, the margin ignores the shortcut, as in the authors' code.

    Implementation: where map sizes differ, which the paper does not cover, the larger map is average-pooled to the
    smaller one's size.

    Defaults: the authors' code divides by 10000 for ImageNet, as does fast-reid, which adds the term to a retrieval
    network's task loss: this is the default weight. It divides by 1000 for CIFAR (preset `cifar`). The sum grows with
    the size of the image and of the teacher.

    Args:
        weight: Weight of the loss term.
        stages: Stages whose maps are compared.
    """

    kind: ClassVar[str] = "feature maps"
    maps_per_image = True
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(1e-05, 0.001)}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"cifar": {"weight": 1e-3}}

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 1e-4,
        stages: Stages = (1, 2, 3, 4),
    ) -> None:
        super().__init__()
        self.weight = weight
        self.stages = stages
        self.student_taps = self.teacher_taps = [f"stage{stage}:pre" for stage in stages]
        self.connectors = nn.ModuleList()

    def check(self, student: Embedder, teacher: Embedder, plan: RecipePlan) -> None:
        for stage, channels in zip(self.stages, stage_channels(teacher, self.stages), strict=True):
            _last_batchnorm(teacher, stage, channels)

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        outputs = stage_channels(teacher, self.stages)
        for stage, width, channels in zip(self.stages, stage_channels(student, self.stages), outputs, strict=True):
            convolution = nn.Conv2d(width, channels, 1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
            self.connectors.append(nn.Sequential(convolution, nn.BatchNorm2d(channels)))
            norm = _last_batchnorm(teacher, stage, channels)
            self.register_buffer(f"margin{stage}", negative_half_mean(norm.bias.detach(), norm.weight.detach()))

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        terms = []
        for depth, (connector, stage) in enumerate(zip(self.connectors, self.stages, strict=True), start=1):
            s, t = match_size(student.taps[f"stage{stage}:pre"], teacher.taps[f"stage{stage}:pre"])
            distance = partial_distance(upcast(connector(s)), t, self.get_buffer(f"margin{stage}"))
            terms.append(distance / (len(t) * 2 ** (len(self.stages) - depth)))
        return {"ofd": self.weight * torch.stack(terms).sum()}


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Compute the sum of d over all entries, as in the equation of `OFD`.

    Args:
        student: (B, C, H, W) maps after the connector, r(s).
        teacher: (B, C, H, W) maps before the activation, t.
        margin: (C,) margins m_c.

    Returns:
        A scalar.
    """
    target = teacher.maximum(margin[:, None, None])
    counted = (student > target) | (target > 0)
    return (student - target).square().where(counted, 0).sum()


def negative_half_mean(mean: Tensor, deviation: Tensor) -> Tensor:
    """Compute E[x | x < 0] of normal distributions; -3 |deviation| where P(x < 0) is at most 0.001."""
    m, s = mean.double(), deviation.double().abs().clamp(min=1e-12)
    probability = torch.special.ndtr(-m / s)
    density = (-0.5 * (m / s).square()).exp() / math.sqrt(2 * math.pi)
    return torch.where(probability > 1e-3, m - s * density / probability.clamp(min=1e-3), -3 * s).to(mean.dtype)


def _last_batchnorm(network: Embedder, stage: int, channels: int) -> nn.BatchNorm2d:
    """Return the last batch norm of a stage's main path.

    Raises:
        UserError: The stage has no batch norm of this width.
    """
    path = network.backbone.feature_info[-4:][stage - 1]["module"]
    last = None
    for name, module in network.backbone.named_modules():
        if not f"{name}.".startswith(f"{path}.") or "downsample" in name:
            continue
        if isinstance(module, nn.BatchNorm2d) and module.num_features == channels:
            last = module
        elif isinstance(module, nn.Linear):  # of a transformer's block, which ends with it
            last = None
    if last is None:
        raise UserError(
            f"teacher.network.backbone: stage {stage} of {network.architecture['backbone']} does not end with a batch "
            f"norm of its {channels} channels, from which {OFD.name} takes its margins; choose another backbone, such "
            "as a ResNet"
        )
    return last
