"""Correlation congruence."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses import l2_normalize
from benchmark.method import Method, Needs
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import full_precision, upcast


@METHODS.register_module("cc")
class CC(Method):
    """Correlation congruence: correlations between the images of a batch agree with the teacher's.

    Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang: Correlation Congruence for Knowledge Distillation. ICCV 2019.

    Equation of the paper, `form` gaussian or bilinear: weight * ||C_s - C_t||_F^2 / B^2, where C = exp(-2 gamma) *
    sum_{p=0..P} (2 gamma)^p / p! * (F F^T)^p, powers taken entry by entry (the Taylor series of the Gaussian kernel
    between unit rows), or C = F F^T; F the (B, D) embeddings of the B images in the batch, whose sizes may differ.
    torchdistill, whose gamma and P are the defaults, takes the norm without its square, as is the default here
    (`squared` gives the paper's), and does not normalise the rows, which its series assumes normalised.

    The codes in use, RepDistiller and AIR_Distiller, compute something else, `form` consecutive and the default:
    weight / (B - 1) * sum_{i<B} sum_c d_i,c * d_{i+1,c}, with d = |f_s - f_t| entry by entry. It depends on the order
    of the batch, needs embeddings of one size, and pulls the student's onto the teacher's.

    L2-normalised rows and weight 5 are AIR_Distiller's, for retrieval; the preset `repdistiller` is 0.02 without
    normalisation, for classification. The weight 500 of the preset `kernel`, the paper's Gaussian form, is this
    benchmark's, chosen so that the gradient is of the size of the task loss's on glyphs.

    Args:
        form: See above.
        weight: Factor of the term.
        normalize: Whether the embeddings are L2-normalised first.
        squared: For the two kernels: whether the norm is squared.
        gamma: Of the Gaussian kernel.
        order: P, where its Taylor series ends.
    """

    kind: ClassVar[str] = "sample relations"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "repdistiller": {"form": "consecutive", "weight": 0.02, "normalize": False},
        "kernel": {"form": "gaussian", "weight": 500.0, "squared": True},
    }

    def __init__(
        self,
        form: Literal["consecutive", "gaussian", "bilinear"] = "consecutive",
        weight: Annotated[float, Field(ge=0)] = 5.0,
        normalize: bool = True,
        squared: bool = False,
        gamma: Annotated[float, Field(gt=0)] = 0.4,
        order: Annotated[int, Field(ge=1, le=100)] = 2,
    ) -> None:
        super().__init__()
        self.form, self.weight, self.normalize, self.squared = form, weight, normalize, squared
        self.gamma, self.order = gamma, order
        self.aligned = form == "consecutive"
        self.needs = Needs(equal_embeddings=self.aligned)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        prepared = l2_normalize if self.normalize else upcast
        s, t = prepared(student.embedding), prepared(teacher.embedding)
        return {"cc": self.weight * (self._consecutive(s, t) if self.form == "consecutive" else self._kernel(s, t))}

    @staticmethod
    def _consecutive(student: Tensor, teacher: Tensor) -> Tensor:
        apart = (student - teacher).abs()
        return (apart[:-1] * apart[1:]).sum(dim=1).mean()

    def _kernel(self, student: Tensor, teacher: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(self.correlations(student) - self.correlations(teacher))
        return (norm.square() if self.squared else norm) / len(student) ** 2

    def correlations(self, rows: Tensor) -> Tensor:
        """C, (B, B)."""
        with full_precision(rows.device):
            products: Tensor = rows @ rows.T
        if self.form == "bilinear":
            return products
        factors = [(2 * self.gamma) ** p / math.factorial(p) for p in range(self.order + 1)]
        series = torch.stack([factor * products**p for p, factor in enumerate(factors)]).sum(dim=0)
        return math.exp(-2 * self.gamma) * series
