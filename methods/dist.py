"""Distillation from a stronger teacher."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.method import Method, Needs
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import upcast

Weight = Annotated[float, Field(ge=0)]


@METHODS.register_module("dist")
class DIST(Method):
    """DIST: class probabilities correlate with the teacher's, over the classes and over the batch.

    Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher. NeurIPS 2022.

    Equation: T^2 * [beta * (1 - mean_b rho(p_s[b, :], p_t[b, :])) + gamma * (1 - mean_c rho(p_s[:, c], p_t[:, c]))],
    with p = softmax(z / T), z (B, C) the logits of the B images in the batch over C classes, and rho Pearson's
    correlation, <x, y> / (|x| |y| + 1e-8) of vectors less their means. A vector that is constant up to rounding has no
    correlation: it counts as rho = 0 and passes no gradient, where the released code divides by 1e-8. The constant also
    makes classes that are improbable in the whole batch count for little. No retrieval code has weights; the defaults
    are the authors', beta = gamma = 1 and T = 1.

    Args:
        temperature: T.
        inter_weight: beta, of the correlation over classes within an image.
        intra_weight: gamma, of the correlation over images within a class.
    """

    kind: ClassVar[str] = "logits"
    needs = Needs(classifier=True)

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        inter_weight: Weight = 1.0,
        intra_weight: Weight = 1.0,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.inter_weight, self.intra_weight = inter_weight, intra_weight

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        s, t = (torch.softmax(upcast(x.logits) / self.temperature, dim=1) for x in (student, teacher))
        factor = self.temperature**2
        return {
            "dist_inter": self.inter_weight * factor * (1 - correlation(s, t).mean()),
            "dist_intra": self.intra_weight * factor * (1 - correlation(s.T, t.T).mean()),
        }


def correlation(x: Tensor, y: Tensor) -> Tensor:
    """(N,): Pearson's correlation of the rows of (N, M); 0 without gradient where a row is constant."""
    (x, x_norm, x_constant), (y, y_norm, y_constant) = _centred(x), _centred(y)
    constant = x_constant | y_constant
    norms = (x_norm * y_norm).masked_fill(constant, 1)
    return ((x * y).sum(dim=1) / (norms + 1e-8)).masked_fill(constant, 0)


def _centred(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    centred = rows - rows.mean(dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(centred, dim=1)
    rounding = 10 * torch.finfo(rows.dtype).eps * torch.linalg.vector_norm(rows.detach(), dim=1)
    return centred, norms, norms.detach() <= rounding
