"""Rank order preservation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Needs, Range
from benchmark.losses import ranked_similarities

Weight = Annotated[float, Field(ge=0)]
TEACHER_TEMPERATURE = 1e-6
"""Temperature of the teacher's indicator: a step function for cosines that differ by more than rounding."""


@METHODS.register_module("rop")
class ROP(Method):
    """Rank order preservation: match the pairwise order of each image's neighbors in the teacher's space.

    Wu, Wang, Zhou, Li: A General Rank Preserving Framework for Asymmetric Image Retrieval. ICLR 2023.

    Equation:

        weight / (B K) * sum_i sum_mn w_m * (sigmoid((T_n - T_m) / 1e-6) - sigmoid((S_n - T_m) / tau))^2

        T_m = cos(t_i, t_m),  S_m = cos(s_i, t_m),  w_m = m * softmax_m(rank_weight * T_m)

    where s and t are the embeddings of student and teacher, i runs over the B images in the batch, and m and n over the
    K of them that are nearest to i in the teacher's space, counted from 1. The first is i itself.

    Implementation: follows AIR_Distiller and reproduces its values. The student's indicator subtracts the teacher's
    similarity T_m, not S_m, so the loss matches the similarities themselves and not only their order. It is not quite
    zero for a student equal to its teacher. The neighbors are images of the batch, not of a gallery of the training
    set. AIR_Distiller draws a batch of 256 random images; here, the batch of the task loss is used. A K above the batch
    size selects the whole batch.

    Defaults: K, tau, rank_weight and weight are AIR_Distiller's for CUB and In-Shop, used with cross-entropy and
    triplet loss. The preset `msmt17` is its weight for MSMT17.

    Args:
        top_k: Number K of neighbors.
        temperature: Temperature tau of the student's indicator.
        rank_weight: How much more weight the teacher's nearest neighbors get.
        weight: Weight of the loss term.
    """

    kind: ClassVar[str] = "embeddings"
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.1, 10), "temperature": Range(0.03, 0.3)}
    needs = Needs(equal_embeddings=True)
    aligned = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"msmt17": {"weight": 0.5}}

    def __init__(
        self,
        top_k: Annotated[int, Field(ge=2)] = 256,
        temperature: Annotated[float, Field(gt=0)] = 0.1,
        rank_weight: Weight = 0.2,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__()
        self.top_k, self.temperature, self.rank_weight, self.weight = top_k, temperature, rank_weight, weight

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        s, t = ranked_similarities(student.embedding, teacher.embedding, self.top_k)
        # Rows are m, columns are n.
        target = torch.sigmoid((t[:, None, :] - t[:, :, None]) / TEACHER_TEMPERATURE)
        indicator = torch.sigmoid((s[:, None, :] - t[:, :, None]) / self.temperature)
        ranks = torch.arange(1, t.shape[1] + 1, device=t.device)
        weights = ranks * torch.softmax(self.rank_weight * t, dim=1)
        return {"rop": self.weight * (weights[:, :, None] * (target - indicator).square()).sum() / t.numel()}
