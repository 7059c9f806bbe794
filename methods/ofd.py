"""The overhaul of feature distillation."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.losses import match_size
from benchmark.method import Method, Plan
from benchmark.model.embedder import Embedder, Stages, stage_channels
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import upcast


@METHODS.register_module("ofd")
class OFD(Method):
    """Overhaul of feature distillation: maps before a stage's last ReLU approach the teacher's positive responses.

    Heo, Kim, Yun, Park, Kwak, Choi: A Comprehensive Overhaul of Feature Distillation. ICCV 2019.

    Equation: weight * sum over stages j = 0 .. n - 1 of 2^-(n - j - 1) / B * sum over all entries of (r(s) - t')^2
    where r(s) > t' or t' > 0, and 0 elsewhere: a negative response of the teacher asks only for a response that is not
    above it. B is the number of images in the batch; s and t are the maps before the activation that ends the stage
    (its output, where none does), r a 1x1 convolution and a batch-norm, and t' = max(t, m_c). The margin m_c is the
    mean of the negative half of a normal distribution with the bias as mean and the scale as deviation of the
    batch-norm that ends the teacher's stage, in channel c, and -3 deviations where less than a thousandth is negative.
    In a residual block that leaves out the shortcut, as the authors' code does.

    The authors' code divides by 1000 for CIFAR, the preset `cifar`, and by 10000 for ImageNet, as does fast-reid, which
    adds it to a retrieval network's task loss: the default weight. The sum grows with image and teacher. Where maps
    differ in size, which the paper does not provide for, the larger of two is averaged down to the smaller's.

    Args:
        weight: Factor of the term.
        stages: Where maps are compared.
    """

    kind: ClassVar[str] = "feature maps"
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

    def check(self, student: Embedder, teacher: Embedder, image_size: tuple[int, int]) -> None:
        for stage, channels in zip(self.stages, stage_channels(teacher, self.stages), strict=True):
            _last_norm(teacher, stage, channels)

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        outputs = stage_channels(teacher, self.stages)
        for stage, width, channels in zip(self.stages, stage_channels(student, self.stages), outputs, strict=True):
            convolution = nn.Conv2d(width, channels, 1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
            self.connectors.append(nn.Sequential(convolution, nn.BatchNorm2d(channels)))
            norm = _last_norm(teacher, stage, channels)
            self.register_buffer(f"margin{stage}", negative_mean(norm.bias.detach(), norm.weight.detach()))

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        terms = []
        for depth, (connector, stage) in enumerate(zip(self.connectors, self.stages, strict=True), start=1):
            s, t = match_size(student.taps[f"stage{stage}:pre"], teacher.taps[f"stage{stage}:pre"])
            distance = partial_distance(upcast(connector(s)), t, self.get_buffer(f"margin{stage}"))
            terms.append(distance / (len(t) * 2 ** (len(self.stages) - depth)))
        return {"ofd": self.weight * torch.stack(terms).sum()}


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """The sum over all entries of (B, C, H, W) maps, as the equation of `OFD` has it, with (C,) margins."""
    target = teacher.maximum(margin[:, None, None])
    counts = (student > target) | (target > 0)
    return (student - target).square().where(counts, 0).sum()


def negative_mean(mean: Tensor, deviation: Tensor) -> Tensor:
    """E[x | x < 0] of normal distributions; -3 |deviation| where P(x < 0) is at most 0.001."""
    m, s = mean.double(), deviation.double().abs().clamp(min=1e-12)
    share = torch.special.ndtr(-m / s)
    density = (-0.5 * (m / s).square()).exp() / math.sqrt(2 * math.pi)
    return torch.where(share > 1e-3, m - s * density / share.clamp(min=1e-3), -3 * s).to(mean.dtype)


def _last_norm(network: Embedder, stage: int, channels: int) -> nn.BatchNorm2d:
    """The batch-norm of the stage's output, the shortcuts' left out."""
    path = network.backbone.feature_info[-4:][stage - 1]["module"]
    norms = [
        module
        for name, module in network.backbone.get_submodule(path).named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.num_features == channels and "downsample" not in name
    ]
    if not norms:
        raise UserError(
            f"ofd takes its margins from the batch-norm that ends a stage, and stage {stage} of "
            f"{network.architecture['backbone']} has none: choose another teacher.network.backbone"
        )
    return norms[-1]
