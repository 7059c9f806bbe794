"""Decoupled differential distillation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Needs, Range
from benchmark.losses import ranked_similarities

Weight = Annotated[float, Field(ge=0)]
OFFSET = 0.1
"""Keeps the relative error finite where the teacher's two similarities are equal."""


@METHODS.register_module("d3still")
class D3still(Method):
    """D3still: match differences of similarities to the teacher's neighbors, with more weight on wrongly ordered pairs.

    Xie, Lin, Cai, Xu, Zhang, Du, He: D3still: Decoupled Differential Distillation for Asymmetric Image Retrieval. CVPR
    2024.

    Equation:

        feature_weight / B * ||T_1 - S_1||_2, the norm over the batch
        + hard_weight / (B (K - 1)) * sum_i ||r over pairs (m, n) with dS / dT < 0||_2
        + easy_weight / (B (K - 1)) * sum_i ||r over pairs (m, n) with dS / dT > 0||_2

        T_m = cos(t_i, t_m),  S_m = cos(s_i, t_m)
        dT = T_n - T_m,  dS = S_n - S_m,  r = (dS - dT) / (0.1 + |dT|)

    where s and t are the embeddings of student and teacher, i runs over the B images in the batch, and m and n over the
    K of them that are nearest to i in the teacher's space. The nearest is i itself; pairs are formed of the others, 2
    to K, and every pair counts in both orders.

    Implementation: as in the authors' code, K - 1 is the divisor even where the batch holds fewer than K images. The
    neighbors are images of the task loss's batch; the authors' code draws a batch of 256 random images. A pair to which
    the teacher is equally similar (up to rounding) belongs to neither set; the authors' code sets such a dT to 1 and
    counts the pair as soon as rounding separates the student's similarities.

    Defaults: K and the weights are those of the authors' code for CUB and In-Shop, used with cross-entropy and triplet
    loss (the paper trains without these). The preset `msmt17` holds its weights for MSMT17.

    Args:
        top_k: Number K of neighbors.
        feature_weight: Weight of the image's own similarity (alpha in the code).
        hard_weight: Weight of pairs in the wrong order (beta).
        easy_weight: Weight of pairs in the right order (gamma).
    """

    kind: ClassVar[str] = "embeddings"
    search: ClassVar[Mapping[str, Range]] = {
        "feature_weight": Range(10, 1000),
        "hard_weight": Range(0.5, 50),
        "easy_weight": Range(0.1, 10),
    }
    needs = Needs(equal_embeddings=True)
    aligned = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"msmt17": {"feature_weight": 50.0, "hard_weight": 2.0}}

    def __init__(
        self,
        top_k: Annotated[int, Field(ge=2)] = 10,
        feature_weight: Weight = 100.0,
        hard_weight: Weight = 5.0,
        easy_weight: Weight = 1.0,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.feature_weight, self.hard_weight, self.easy_weight = feature_weight, hard_weight, easy_weight

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        s, t = ranked_similarities(student.embedding, teacher.embedding, self.top_k)
        feature = torch.linalg.vector_norm(t[:, 0] - s[:, 0]) / len(t)
        ds, dt = (x[:, None, 1:] - x[:, 1:, None] for x in (s, t))
        errors = (ds - dt) / (OFFSET + dt.abs())
        agreement = ds.detach() * dt.masked_fill(dt.abs() <= 16 * torch.finfo(dt.dtype).eps, 0).sign()
        hard, easy = (
            torch.linalg.vector_norm(errors.masked_fill(~pairs, 0), dim=(1, 2)).mean() / (self.top_k - 1)
            for pairs in (agreement < 0, agreement > 0)
        )
        return {
            "d3still_feature": self.feature_weight * feature,
            "d3still_hard": self.hard_weight * hard,
            "d3still_easy": self.easy_weight * easy,
        }
