"""Distillation from a stronger teacher."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Needs, Range
from benchmark.utils.precision import upcast

Weight = Annotated[float, Field(ge=0)]


@METHODS.register_module("dist")
class DIST(Method):
    """DIST: maximize the correlation of class probabilities with the teacher's, over classes and over the batch.

    Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher. NeurIPS 2022.

    Equation:

        T^2 * [beta * (1 - mean_b rho(p_s[b, :], p_t[b, :])) + gamma * (1 - mean_c rho(p_s[:, c], p_t[:, c]))]

        rho(x, y) = <x, y> / (|x| |y| + 1e-8) of the centered vectors

    where p = softmax(z / T), z are the (B, C) logits of student (s) and teacher (t) for the B images in the batch over
    C classes, and rho is Pearson's correlation.

    Implementation: a vector that is constant up to rounding has no correlation. It counts as rho = 0 and passes no
    gradient; the released code divides by 1e-8. The constant also reduces the contribution of classes that are
    improbable in the whole batch.

    Defaults: the authors', beta = gamma = 1 and T = 1. No retrieval code gives weights for this loss.

    Args:
        temperature: Temperature T.
        inter_weight: Weight beta of the correlation over the classes of an image.
        intra_weight: Weight gamma of the correlation over the images of a class.
    """

    kind: ClassVar[str] = "logits"
    search: ClassVar[Mapping[str, Range]] = {
        "temperature": Range(1, 8),
        "inter_weight": Range(0.1, 10),
        "intra_weight": Range(0.1, 10),
    }
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
    """Compute Pearson's correlation of corresponding rows; 0 without gradient where a row is constant.

    Args:
        x: (N, M).
        y: (N, M).

    Returns:
        (N,), in -1 .. 1.
    """
    (x, x_norm, x_constant), (y, y_norm, y_constant) = _center(x), _center(y)
    constant = x_constant | y_constant
    norms = (x_norm * y_norm).masked_fill(constant, 1)
    return ((x * y).sum(dim=1) / (norms + 1e-8)).masked_fill(constant, 0)


def _center(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the centered rows, their norms, and which of them are constant up to rounding."""
    centered = rows - rows.mean(dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(centered, dim=1)
    rounding = 10 * torch.finfo(rows.dtype).eps * torch.linalg.vector_norm(rows.detach(), dim=1)
    return centered, norms, norms.detach() <= rounding
