"""Correlation congruence."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Needs, Range
from benchmark.losses import l2_normalize
from benchmark.utils.precision import full_precision, upcast


@METHODS.register_module("cc")
class CC(Method):
    """Correlation congruence: match the correlations between the images of a batch.

    Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang: Correlation Congruence for Knowledge Distillation. ICCV 2019.

    Equation of the paper (`form: gaussian` or `form: bilinear`):

        weight * ||C_s - C_t||_F^2 / B^2

        gaussian: C = exp(-2 gamma) * sum_{p=0..P} (2 gamma)^p / p! * (F F^T)^p
        bilinear: C = F F^T

    where s is the student, t the teacher, and F the (B, D) embeddings of the B images in the batch, whose sizes D may
    differ. Powers are taken entry by entry: the series is the Taylor expansion of the Gaussian kernel between unit
    rows.

    Equation of the released codes (`form: consecutive`, the default):

        weight / (B - 1) * sum_{i<B} sum_c d[i, c] * d[i + 1, c],  d = |f_s - f_t| entry by entry

    where f are the embeddings. RepDistiller and AIR_Distiller compute this form. It depends on the order of the batch,
    needs embeddings of equal size, and trains the student into the teacher's embedding space.

    Implementation: torchdistill, whose gamma and P are the defaults, does not square the norm of the kernel forms, and
    neither does the default here; `squared` gives the paper's equation. torchdistill does not normalize the rows
    either, although its series assumes normalized rows.

    Defaults: L2-normalized rows and weight 5 are AIR_Distiller's, for retrieval. The preset `repdistiller` is weight
    0.02 without normalization, for classification. The preset `kernel` is the paper's Gaussian form; its weight of 500
    was chosen for this benchmark, so that the term's gradient is about as large as the task loss's on glyphs.

    Args:
        form: Which of the three equations is computed.
        weight: Weight of the loss term.
        normalize: Whether to L2-normalize the embeddings first.
        squared: Whether to square the norm of the two kernel forms.
        gamma: Parameter gamma of the Gaussian kernel.
        order: Order P of its Taylor series.
    """

    kind: ClassVar[str] = "sample relations"
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.5, 50)}
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
        prepare = l2_normalize if self.normalize else upcast
        s, t = prepare(student.embedding), prepare(teacher.embedding)
        term = _consecutive(s, t) if self.form == "consecutive" else self._kernel(s, t)
        return {"cc": self.weight * term}

    def _kernel(self, student: Tensor, teacher: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(self.correlations(student) - self.correlations(teacher))
        return (norm.square() if self.squared else norm) / len(student) ** 2

    def correlations(self, rows: Tensor) -> Tensor:
        """Compute the (B, B) correlation matrix C of (B, D) rows, by a kernel form."""
        with full_precision(rows.device):
            products: Tensor = rows @ rows.T
        if self.form == "bilinear":
            return products
        factors = [(2 * self.gamma) ** p / math.factorial(p) for p in range(self.order + 1)]
        series = torch.stack([factor * products**p for p, factor in enumerate(factors)]).sum(dim=0)
        return math.exp(-2 * self.gamma) * series


def _consecutive(student: Tensor, teacher: Tensor) -> Tensor:
    differences = (student - teacher).abs()
    return (differences[:-1] * differences[1:]).sum(dim=1).mean()
