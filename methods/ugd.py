"""Global and local distillation where the teacher is right."""

from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.losses import l2_normalize
from benchmark.method import Method, Needs, Plan
from benchmark.model.embedder import Embedder, stage_channels
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import full_precision, upcast

Weight = Annotated[float, Field(ge=0)]
PIXELS = 16
"""Pixels of the student's image along each side of a cell of the finer grid."""
Cells = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(N, C) pooled maps -> (N, D) embeddings and (N, identities) logits."""


@METHODS.register_module("ugd")
class UGD(Method):
    """UGD: whole images, and those parts of them that the teacher classifies rightly, are embedded as it does.

    Zhang et al.: Unambiguous Granularity Distillation for Asymmetric Image Retrieval. Neural Networks, 2025; as
    released in AIR_Distiller (SCY-X/D3still).

    Equation: global_weight * mean_b || n(t_b) - n(s_b) ||_2 + local_weight * (L_P + L_P/2), n the L2-normalisation, s
    and t the embeddings of student and teacher. For L_P, the last map of the teacher is averaged within the cells of a
    grid, and its neck and classifier are applied to each as if it were a pooled image; a stage of the student is
    averaged alike and projected by BN - Linear - BN, learned, for each grid its own. L_P is the mean of || n(t_c) -
    n(s_c) ||_2 over the cells c whose class the teacher gets right, 0 where there is none. The grid has a cell for
    every 16 pixels of the student's image (as its third stage has, where the stem is ImageNet's), that of L_P/2 half as
    many along each side.

    As in AIR_Distiller, whose stage and weights these are, beside cross-entropy and triplet loss. There grids are
    square; here they follow the image. There the batch is of 96 images drawn at random; here it is the task loss's own.

    Args:
        global_weight: Factor of the term on whole images (alpha).
        local_weight: Factor of the term on cells (beta).
        stage: The student's stage whose cells are compared.
    """

    kind: ClassVar[str] = "embeddings"
    needs = Needs(classifier=True, equal_embeddings=True)
    aligned = True
    cells: Cells
    """The teacher's judgement of a cell. A function, not a module: the teacher is in no state and no optimiser."""

    def __init__(
        self, global_weight: Weight = 2.0, local_weight: Weight = 2.0, stage: Annotated[int, Field(ge=1, le=4)] = 3
    ) -> None:
        super().__init__()
        self.global_weight, self.local_weight = global_weight, local_weight
        self.student_taps, self.teacher_taps = [f"stage{stage}"], ["stage4"]
        self.stage = stage

    def check(self, student: Embedder, teacher: Embedder, image_size: tuple[int, int]) -> None:
        _expect_last(teacher.eval(), image_size)

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        height, width = student.image_size or plan.image_size
        self.grids = [(max(1, height // side), max(1, width // side)) for side in (PIXELS, 2 * PIXELS)]
        channels = stage_channels(student, [self.stage])[0]
        self.projectors = nn.ModuleList(projector(channels, student.dim) for _ in self.grids)

        def cells(pooled: Tensor) -> tuple[Tensor, Tensor]:
            assert teacher.head is not None
            embedding = teacher.neck(teacher.backbone.forward_head(pooled[:, :, None, None], pre_logits=True))
            return embedding, teacher.head(embedding)

        self.cells = cells

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        whole = torch.linalg.vector_norm(
            l2_normalize(teacher.embedding) - l2_normalize(student.embedding), dim=1
        ).mean()
        maps, models = student.taps[self.student_taps[0]], teacher.taps[self.teacher_taps[0]]
        with full_precision(maps.device):
            local = [
                self._local(_pool(maps, grid), _pool(models, grid), batch.labels, project)
                for grid, project in zip(self.grids, self.projectors, strict=True)
            ]
        return {"ugd_global": self.global_weight * whole, "ugd_local": self.local_weight * torch.stack(local).sum()}

    def _local(self, student: Tensor, teacher: Tensor, labels: Tensor, project: nn.Module) -> Tensor:
        """Mean distance over the cells, image by image, that the teacher classifies rightly."""
        with torch.no_grad():
            model, scores = self.cells(teacher)
            right = scores.argmax(dim=1).view(len(labels), -1) == labels[:, None]
        distances = torch.linalg.vector_norm(l2_normalize(model) - l2_normalize(project(student)), dim=1)
        return (distances * right.flatten()).sum() / right.sum().clamp(min=1)


def projector(channels: int, dim: int) -> nn.Sequential:
    """From a cell of the student's stage to the embedding space."""
    return nn.Sequential(nn.BatchNorm1d(channels), nn.Linear(channels, dim, bias=False), nn.BatchNorm1d(dim))


def _pool(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B * rows * columns, C): averages, image by image and row by row."""
    return F.adaptive_avg_pool2d(upcast(maps), grid).flatten(2).mT.flatten(0, 1)


@torch.no_grad()
def _expect_last(teacher: Embedder, image_size: tuple[int, int]) -> None:
    """Nothing but pooling may lie between the teacher's last stage and its neck."""
    seen: list[Tensor] = []
    stage = teacher.backbone.get_submodule(teacher.backbone.feature_info[-1]["module"])
    handle = stage.register_forward_hook(lambda module, inputs, output: seen.append(output))
    image = torch.zeros(2, 3, *image_size, device=next(teacher.parameters()).device)
    last = teacher.backbone.forward_features(image)
    handle.remove()
    if not seen or last is not seen[0]:
        raise UserError(
            f"ugd applies the teacher's neck to parts of its last stage, and in {teacher.architecture['backbone']} "
            "further layers follow it: choose another teacher, such as a ResNet"
        )
