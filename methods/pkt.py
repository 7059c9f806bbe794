"""Probabilistic knowledge transfer."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Range
from benchmark.utils.precision import full_precision, upcast

EPSILON = 1e-7


@METHODS.register_module("pkt")
class PKT(Method):
    """Probabilistic knowledge transfer: match each image's cosine similarities to the batch as probabilities.

    Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer. ECCV 2018.

    Equation:

        weight / B^2 * sum_ij P_t[i, j] * log((P_t[i, j] + e) / (P_s[i, j] + e))

        P[i, j] = K[i, j] / sum_j K[i, j],  K[i, j] = (cos(f_i, f_j) + 1) / 2

    where f are the embeddings of student (s) and teacher (t) for the B images in the batch, and e = 1e-7. Embedding
    sizes may differ.

    Implementation: as in the released codes, the sums include the diagonal, the norms in the cosine are |f| + e, and
    the result is a mean over the B^2 entries, hence small. A zero row passes no gradient; the released codes scale its
    gradient by 1 / e.

    Defaults: weight 30000 is used by RepDistiller, mdistiller and AIR_Distiller. The last is a retrieval code.

    Args:
        weight: Weight of the loss term.
    """

    kind: ClassVar[str] = "sample relations"
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(3000, 300000)}

    def __init__(self, weight: Annotated[float, Field(ge=0)] = 30000.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        s, t = batch_probabilities(student.embedding), batch_probabilities(teacher.embedding)
        return {"pkt": self.weight * (t * ((t + EPSILON) / (s + EPSILON)).log()).mean()}


def batch_probabilities(features: Tensor) -> Tensor:
    """Compute a (B, B) matrix from (B, D) rows: row i is image i's distribution over the batch, i included."""
    features = upcast(features)
    norms = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    rows = features / (norms + EPSILON).masked_fill(norms == 0, 1)
    rows = rows.masked_fill(norms == 0, 0)
    with full_precision(features.device):
        kernel: Tensor = (rows @ rows.T + 1) / 2
    kernel = kernel.clamp(min=0)  # for opposite rows, rounding can give a value below zero
    return kernel / kernel.sum(dim=1, keepdim=True)
