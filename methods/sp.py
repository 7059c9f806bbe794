"""Similarity-preserving distillation."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Range
from benchmark.losses import l2_normalize
from benchmark.model.features import Stages
from benchmark.utils.precision import full_precision, upcast


@METHODS.register_module("sp")
class SP(Method):
    """Similarity-preserving distillation: match the pairwise similarities of the batch's activations.

    Tung, Mori: Similarity-Preserving Knowledge Distillation. ICCV 2019.

    Equation:

        weight * sum over maps of || n(F_s F_s^T) - n(F_t F_t^T) ||_F^2 / B^2

    where F are the (B, C * H * W) flattened maps of student (s) and teacher (t) for the B images in the batch, and n
    divides every row by its L2 norm. A zero row stays zero and passes no gradient. Channel counts and map sizes may
    differ.

    Implementation: RepDistiller compares the last stage. `of: embedding` compares the embeddings instead, in the same
    way. torchdistill's L1 norm of the rows is not followed.

    Defaults: weight 3000 is RepDistiller's. No retrieval code gives a weight for this loss.

    Args:
        weight: Weight of the loss term.
        of: What is compared: the outputs of the `stages`, or the `embedding`.
        stages: Stages whose outputs are compared with `of: stages`.
    """

    kind: ClassVar[str] = "sample relations"
    accepts_sequences = True
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(300, 30000)}

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 3000.0,
        of: Literal["stages", "embedding"] = "stages",
        stages: Stages = (4,),
    ) -> None:
        super().__init__()
        self.weight = weight
        if of == "stages":
            self.student_taps = self.teacher_taps = [f"stage{i}" for i in stages]

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        compared = [(student.taps[name], teacher.taps[name]) for name in self.student_taps]
        pairs = compared or [(student.embedding, teacher.embedding)]
        return {"sp": self.weight * torch.stack([similarity_distance(s, t) for s, t in pairs]).sum()}


def similarity_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute || n(F_s F_s^T) - n(F_t F_t^T) ||_F^2 / B^2 of (B, ...) tensors."""
    return (_similarities(student) - _similarities(teacher)).square().mean()


def _similarities(features: Tensor) -> Tensor:
    rows = upcast(features).flatten(1)
    with full_precision(rows.device):
        return l2_normalize(rows @ rows.T)
