"""Knowledge review."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.method import Method, Plan
from benchmark.model.embedder import Embedder, Stages, stage_channels
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import upcast

GRIDS = (4, 2, 1)
"""Sides of the grids to which maps are averaged, besides their own size."""


@METHODS.register_module("reviewkd")
class ReviewKD(Method):
    """Knowledge review: the student's maps, fused with its deeper ones, approach the teacher's on a pyramid of grids.

    Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review. CVPR 2021.

    Equation: weight * sum over levels of hcl(out_j, t_j), t_j being the teacher's map. From the deepest level on,
    x_j = BN(conv1x1(s_j)) of the student's map s_j has `middle` channels; on all other levels it is fused with
    y = x_(j+1), resized: x_j <- z_0 x_j + z_1 y, where the maps z are the sigmoid of a 1x1 convolution of both. Then
    x_j takes the teacher's size, and out_j = BN(conv3x3(x_j)). All resizing is by nearest neighbour. hcl is the mean
    square of the difference of both maps, plus 1/2, 1/4 and 1/8 times that of their averages over grids of 4 x 4, 2 x 2
    and 1 x 1, all over the sum of these factors. Grids that are not smaller than the map's height are left out, and the
    factors go to those that are used.

    The levels are the ends of stages and, as the 1 x 1 level of the authors' code, the pooled feature. The weight of 1
    is the basis of theirs, which puts the term at the size of the task loss when training starts; the preset
    `published` is the 5 that they take for res32x4 on CIFAR-100. No retrieval code was found. Their ramp of the weight
    over the first 20 epochs is left out, in the preset too; the recipe warms up the learning rate. `middle` is a
    compromise: the 3x3 convolutions to the widths of a large teacher can cost more than the student itself.

    Args:
        weight: Factor of the term.
        stages: Which ones.
        middle: Channels of the fused maps.
        pooled: Whether the pooled feature is the deepest level.
    """

    kind: ClassVar[str] = "feature maps"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": {"weight": 5.0}}

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        stages: Stages = (1, 2, 3, 4),
        middle: Annotated[int, Field(ge=1)] = 256,
        pooled: bool = True,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.stages = stages
        self.middle = middle
        self.pooled = pooled
        self.student_taps = self.teacher_taps = [f"stage{stage}" for stage in stages]
        self.fusions = nn.ModuleList()

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        inputs, outputs = (stage_channels(network, self.stages) for network in (student, teacher))
        if self.pooled:
            inputs.append(student.backbone.head_hidden_size)
            outputs.append(teacher.backbone.head_hidden_size)
        for i, (width, channels) in enumerate(zip(inputs, outputs, strict=True), start=1):
            self.fusions.append(Fusion(width, self.middle, channels, fuses=i < len(inputs)))

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        targets = self._levels(teacher)
        outputs = self.review(self._levels(student), targets)
        terms = [hcl(output, target) for output, target in zip(outputs, targets, strict=True)]
        return {"reviewkd": self.weight * torch.stack(terms).sum()}

    def review(self, student: list[Tensor], teacher: list[Tensor]) -> list[Tensor]:
        """The student's fused maps, each of the teacher's shape, from the shallowest."""
        outputs: list[Tensor] = []
        fused: Tensor | None = None
        for fusion, s, t in zip(reversed(self.fusions), reversed(student), reversed(teacher), strict=True):
            output, fused = fusion(s, fused, t.shape[2:])
            outputs.insert(0, output)
        return outputs

    def _levels(self, features: Features) -> list[Tensor]:
        maps = [features.taps[tap] for tap in self.student_taps]
        return [*maps, features.pooled[:, :, None, None]] if self.pooled else maps


class Fusion(nn.Module):
    """A level's map, with what comes from the deeper levels, at the teacher's size and width.

    Args:
        inputs: Channels of the student's map.
        middle: Channels of what is fused.
        outputs: Channels of the teacher's map.
        fuses: False for the deepest level.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, fuses: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.attend = nn.Conv2d(2 * middle, 2, 1) if fuses else None
        self.expand = nn.Sequential(nn.Conv2d(middle, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """(B, inputs, H, W) and the fused map of the deeper level -> (B, outputs, *size) and the fused map."""
        fused = self.reduce(maps)
        if self.attend is not None and deeper is not None:
            deeper = _resize(deeper, fused.shape[2:])
            shares = self.attend(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        fused = _resize(fused, size)
        return self.expand(fused), fused


def hcl(student: Tensor, teacher: Tensor) -> Tensor:
    """The hierarchical context loss of two (B, C, H, W) maps, a scalar."""
    s, t = upcast(student), upcast(teacher)
    total, factors = F.mse_loss(s, t), 1.0
    for k, side in enumerate((grid for grid in GRIDS if grid < s.shape[2]), start=1):
        total = total + 2**-k * F.mse_loss(F.adaptive_avg_pool2d(s, side), F.adaptive_avg_pool2d(t, side))
        factors += 2**-k
    return total / factors


def _resize(maps: Tensor, size: torch.Size) -> Tensor:
    return maps if maps.shape[2:] == size else F.interpolate(maps, size, mode="nearest")
