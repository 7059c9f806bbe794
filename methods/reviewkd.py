"""Knowledge review."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark import METHODS, Batch, Embedder, Features, Method, Plan, Range
from benchmark.model.features import Stages, stage_channels
from benchmark.utils.precision import upcast

GRIDS = (4, 2, 1)
"""Side lengths of the grids to which maps are averaged, in addition to their own size."""


@METHODS.register_module("reviewkd")
class ReviewKD(Method):
    """Knowledge review: match the teacher's maps with the student's maps fused with its deeper ones.

    Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review. CVPR 2021.

    Equation:

        weight * sum over levels j of hcl(out_j, t_j)

        x_j = BN(conv1x1(s_j))
        x_j <- z_0 * x_j + z_1 * y,  y = resize(x_{j+1}),  z = sigmoid(conv1x1([x_j, y])), except on the deepest level
        out_j = BN(conv3x3(resize(x_j)))

    where s_j and t_j are the maps of student and teacher, from the deepest level to the shallowest, and x_j has
    `middle` channels. Before the 3x3 convolution x_j is resized to the teacher's map. All resizing is by nearest
    neighbor. hcl, the hierarchical context loss, is a weighted mean of mean squared differences: of the maps, with
    weight 1, and of their averages over grids of 4 x 4, 2 x 2 and 1 x 1, with weights 1/2, 1/4 and 1/8. Grids that are
    not smaller than the map's height are skipped, and the others get the weights 1/2, 1/4 and so on in this order.

    Implementation: the levels are the outputs of the stages and, as the 1 x 1 level of the authors' code, the pooled
    feature. Their ramp of the weight over the first 20 epochs is omitted, in the preset too; the recipe warms up the
    learning rate.

    Defaults: weight 1 is the authors' base weight, with which the term is about as large as the task loss at the start
    of training. The preset `published` is the 5 that they use for res32x4 on CIFAR-100. No retrieval code was found.
    `middle` is a compromise: the 3x3 convolutions to the widths of a large teacher can cost more than the student
    itself.

    Args:
        weight: Weight of the loss term.
        stages: Stages whose outputs are compared.
        middle: Number of channels of the fused maps.
        pooled: Whether the pooled feature is the deepest level.
    """

    kind: ClassVar[str] = "feature maps"
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.1, 10)}
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
        """Fuse the student's maps from the deepest level on.

        Args:
            student: (B, C, H, W) maps, from the shallowest level to the deepest.
            teacher: Maps of the same levels, of which only the sizes are read.

        Returns:
            For each level, the fused map in the teacher's shape.
        """
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
    """Fusion of a student's map with the fused map of the next deeper level.

    Args:
        inputs: Channels of the student's map.
        middle: Channels of the fused map.
        outputs: Channels of the teacher's map.
        fuses: Whether there is a deeper level.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, fuses: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.attend = nn.Conv2d(2 * middle, 2, 1) if fuses else None
        self.expand = nn.Sequential(nn.Conv2d(middle, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Fuse two maps.

        Args:
            maps: (B, inputs, H, W) map of this level.
            deeper: Fused map of the next deeper level, (B, middle, H', W'), or None on the deepest.
            size: Height and width of the teacher's map.

        Returns:
            The output, (B, outputs, *size), and the fused map, (B, middle, *size).
        """
        fused = self.reduce(maps)
        if self.attend is not None and deeper is not None:
            deeper = _resize(deeper, fused.shape[2:])
            attention = self.attend(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * attention[:, :1] + deeper * attention[:, 1:]
        fused = _resize(fused, size)
        return self.expand(fused), fused


def hcl(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the hierarchical context loss of two (B, C, H, W) maps, a scalar."""
    s, t = upcast(student), upcast(teacher)
    total, factors = F.mse_loss(s, t), 1.0
    for k, side in enumerate((grid for grid in GRIDS if grid < s.shape[2]), start=1):
        total = total + 2**-k * F.mse_loss(F.adaptive_avg_pool2d(s, side), F.adaptive_avg_pool2d(t, side))
        factors += 2**-k
    return total / factors


def _resize(maps: Tensor, size: torch.Size) -> Tensor:
    return maps if maps.shape[2:] == size else F.interpolate(maps, size, mode="nearest")
