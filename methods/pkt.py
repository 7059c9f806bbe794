"""Probabilistic knowledge transfer."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.method import Method
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import full_precision, upcast

EPSILON = 1e-7


@METHODS.register_module("pkt")
class PKT(Method):
    """Probabilistic knowledge transfer: each image's cosines to the batch, as probabilities, match the teacher's.

    Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer. ECCV 2018.

    Equation: weight / B^2 * sum_ij P_t,ij * log((P_t,ij + e) / (P_s,ij + e)), where P_ij = K_ij / sum_j K_ij, K_ij =
    (cos(f_i, f_j) + 1) / 2, f the embeddings of the B images in the batch and e = 1e-7. As in the released codes, the
    sums include the diagonal, the lengths in the cosine are |f| + e, and the result is a mean over the B^2 entries,
    hence small; a zero row, whose gradient those codes scale by 1 / e, passes none here. Embedding sizes may differ.
    Weight 30000 is that of RepDistiller, mdistiller and AIR_Distiller, the last a retrieval code.

    Args:
        weight: Factor of the term.
    """

    kind: ClassVar[str] = "sample relations"

    def __init__(self, weight: Annotated[float, Field(ge=0)] = 30000.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        s, t = probabilities(student.embedding), probabilities(teacher.embedding)
        return {"pkt": self.weight * (t * ((t + EPSILON) / (s + EPSILON)).log()).mean()}


def probabilities(features: Tensor) -> Tensor:
    """(B, D) -> (B, B): row i is the distribution of image i over the batch, itself included."""
    features = upcast(features)
    norms = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    rows = features / (norms + EPSILON).masked_fill(norms == 0, 1)
    rows = rows.masked_fill(norms == 0, 0)
    with full_precision(features.device):
        kernel: Tensor = (rows @ rows.T + 1) / 2
    kernel = kernel.clamp(min=0)  # opposite rows come out a rounding error below zero
    return kernel / kernel.sum(dim=1, keepdim=True)
