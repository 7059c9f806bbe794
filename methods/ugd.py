"""Unambiguous granularity distillation."""

from collections.abc import Callable, Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark import METHODS, Batch, Embedder, Features, Method, Needs, Plan, Range, RecipePlan, UserError
from benchmark.losses import l2_normalize
from benchmark.model.features import stage_channels
from benchmark.utils.precision import full_precision, upcast

Weight = Annotated[float, Field(ge=0)]
CELL_PIXELS = 16
"""Side length of a cell of the finer grid, in pixels of the student's image."""
CellHead = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Function from (N, C) pooled maps to (N, D) embeddings and (N, identities) logits."""


@METHODS.register_module("ugd")
class UGD(Method):
    """UGD: match the teacher's embeddings of whole images and of the image parts that it classifies correctly.

    Zhang et al.: Unambiguous Granularity Distillation for Asymmetric Image Retrieval. Neural Networks, 2025; as
    released in AIR_Distiller (SCY-X/D3still).

    Equation:

        global_weight * mean_b || n(t_b) - n(s_b) ||_2 + local_weight * (L_P + L_{P/2})

        L_P = mean of || n(t_c) - n(s_c) ||_2 over the correctly classified cells c of a grid, 0 if there are none

    where n is L2 normalization and s and t are the embeddings of student and teacher. For L_P, the teacher's last map
    is averaged within the cells of a grid, and the teacher's neck and classifier are applied to each cell as if it were
    a pooled image: t_c and its class. The map of one of the student's stages is averaged in the same way and projected
    to s_c by a learned BN - Linear - BN, one for each grid. Along each side, the grid of L_P has one cell for every 16
    pixels of the student's image (the resolution of its third stage, with the stem of ImageNet networks), and the grid
    of L_{P/2} has half as many cells.

    Implementation: follows AIR_Distiller, except that its grids are square and these have the aspect ratio of the
    image. AIR_Distiller draws a batch of 96 random images; here, the batch of the task loss is used.

    Defaults: stage and weights are AIR_Distiller's, used with cross-entropy and triplet loss.

    Args:
        global_weight: Weight of the whole images (alpha in the code).
        local_weight: Weight of the cells (beta).
        stage: The student's stage whose cells are compared.
    """

    kind: ClassVar[str] = "embeddings"
    search: ClassVar[Mapping[str, Range]] = {"global_weight": Range(0.2, 20), "local_weight": Range(0.2, 20)}
    needs = Needs(classifier=True, equal_embeddings=True, teacher_network=True)
    aligned = True
    cell_head: CellHead
    """The teacher's neck and classifier. A function, not a module: the teacher must not enter state or optimizer."""

    def __init__(
        self, global_weight: Weight = 2.0, local_weight: Weight = 2.0, stage: Annotated[int, Field(ge=1, le=4)] = 3
    ) -> None:
        super().__init__()
        self.global_weight, self.local_weight = global_weight, local_weight
        self.student_taps, self.teacher_taps = [f"stage{stage}"], ["stage4"]
        self.stage = stage

    def check(self, student: Embedder, teacher: Embedder, plan: RecipePlan) -> None:
        _require_plain_head(teacher.eval(), plan.image_size)

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        height, width = student.image_size or plan.image_size
        self.grids = [(max(1, height // side), max(1, width // side)) for side in (CELL_PIXELS, 2 * CELL_PIXELS)]
        channels = stage_channels(student, [self.stage])[0]
        self.projectors = nn.ModuleList(projector(channels, student.dim) for _ in self.grids)

        def cell_head(pooled: Tensor) -> tuple[Tensor, Tensor]:
            assert teacher.head is not None
            embedding = teacher.neck(teacher.backbone.forward_head(pooled[:, :, None, None], pre_logits=True))
            return embedding, teacher.head(embedding)

        self.cell_head = cell_head

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        images = torch.linalg.vector_norm(
            l2_normalize(teacher.embedding) - l2_normalize(student.embedding), dim=1
        ).mean()
        s, t = student.taps[self.student_taps[0]], teacher.taps[self.teacher_taps[0]]
        with full_precision(s.device):
            local = [
                self._local(_pool(s, grid), _pool(t, grid), batch.labels, project)
                for grid, project in zip(self.grids, self.projectors, strict=True)
            ]
        return {"ugd_global": self.global_weight * images, "ugd_local": self.local_weight * torch.stack(local).sum()}

    def _local(self, student: Tensor, teacher: Tensor, labels: Tensor, project: nn.Module) -> Tensor:
        """Compute the mean distance over the cells that the teacher classifies correctly.

        Args:
            student: (B * cells, C) pooled maps, image by image.
            teacher: (B * cells, C') pooled maps, image by image.
            labels: (B,) int64.
            project: The grid's projector, from C channels to the embedding.
        """
        with torch.no_grad():
            target, logits = self.cell_head(teacher)
            correct = logits.argmax(dim=1).view(len(labels), -1) == labels[:, None]
        distances = torch.linalg.vector_norm(l2_normalize(target) - l2_normalize(project(student)), dim=1)
        return (distances * correct.flatten()).sum() / correct.sum().clamp(min=1)


def projector(channels: int, dim: int) -> nn.Sequential:
    """Build the projection of a cell of the student's stage to the embedding space."""
    return nn.Sequential(nn.BatchNorm1d(channels), nn.Linear(channels, dim, bias=False), nn.BatchNorm1d(dim))


def _pool(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average (B, C, H, W) maps within grid cells: (B * rows * columns, C), image by image and row by row."""
    return F.adaptive_avg_pool2d(upcast(maps), grid).flatten(2).mT.flatten(0, 1)


@torch.no_grad()
def _require_plain_head(teacher: Embedder, image_size: tuple[int, int]) -> None:
    """Check that only pooling lies between the maps of the teacher's last stage and its neck.

    Raises:
        UserError: Further layers follow the last stage, or its outputs are not maps.
    """
    name, channels = teacher.architecture["backbone"], stage_channels(teacher, [4])[0]
    outputs: list[Tensor] = []
    modules = dict(teacher.backbone.named_modules())
    # Some stages are not modules: layers that make them feature maps follow.
    stage = modules.get(teacher.backbone.feature_info[-1]["module"], nn.Identity())
    handle = stage.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    image = torch.zeros(2, 3, *(teacher.image_size or image_size), device=next(teacher.parameters()).device)
    last = teacher.backbone.forward_features(image)
    handle.remove()
    if not outputs or last is not outputs[0]:
        raise UserError(
            f"teacher.network.backbone: in {name} further layers follow the last stage, to parts of which {UGD.name} "
            "applies the teacher's neck; choose another backbone, such as a ResNet"
        )
    if last.dim() != 4 or last.shape[1] != channels:
        raise UserError(
            f"teacher.network.backbone: the last stage of {name} outputs {tuple(last.shape[1:])} per image, not a map "
            f"(C, H, W), to parts of which {UGD.name} applies the teacher's neck; choose another backbone, such as a "
            "ResNet"
        )
