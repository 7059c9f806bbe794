"""Rank order preservation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses import ranked_similarities
from benchmark.method import Method, Needs
from benchmark.model.features import Features
from benchmark.registry import METHODS

Weight = Annotated[float, Field(ge=0)]
HARD = 1e-6
"""Temperature of the teacher's comparisons: steps, for cosines that differ by more than rounding."""


@METHODS.register_module("rop")
class ROP(Method):
    """Rank order preservation: which of two neighbours is the nearer one, the student is to see as the teacher does.

    Wu, Wang, Zhou, Li: A General Rank Preserving Framework for Asymmetric Image Retrieval. ICLR 2023.

    Equation: weight / (B K) * sum_i sum_mn w_m (sigmoid((T_n - T_m) / 1e-6) - sigmoid((S_n - T_m) / tau))^2, where i
    runs over the B images in the batch, m and n over the K of them nearest to i in the teacher's space, i the first of
    them; T_m = cos(t_i, t_m) and S_m = cos(s_i, t_m), s and t the embeddings of student and teacher; w_m = m *
    softmax_m(rank_weight * T_m), m counted from 1.

    As in AIR_Distiller, whose values this meets: the student's indicator subtracts the TEACHER's similarity T_m, not
    S_m, so that the similarities themselves are pulled together, not their order alone, and a student equal to its
    teacher is not quite at zero; the neighbours are the batch's, not those of a gallery of the training set. There the
    batch is of 256 images drawn at random, here the task loss's own. A K above the batch is the whole batch. K, tau,
    rank_weight and weight are AIR_Distiller's for CUB and In-Shop, beside cross-entropy and triplet loss; the preset
    `msmt17` is its weight there.

    Args:
        top_k: K.
        temperature: tau.
        rank_weight: How much more the teacher's nearest count.
        weight: Factor of the term.
    """

    kind: ClassVar[str] = "embeddings"
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
        # Rows are m, columns n.
        expected = torch.sigmoid((t[:, None, :] - t[:, :, None]) / HARD)
        found = torch.sigmoid((s[:, None, :] - t[:, :, None]) / self.temperature)
        ranks = torch.arange(1, t.shape[1] + 1, device=t.device)
        weights = ranks * torch.softmax(self.rank_weight * t, dim=1)
        return {"rop": self.weight * (weights[:, :, None] * (expected - found).square()).sum() / t.numel()}
