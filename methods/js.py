"""Symmetric divergence of fast-reid."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Needs, Range
from benchmark.losses import kl_divergence


@METHODS.register_module("js")
class JS(Method):
    """Symmetric divergence of fast-reid: match class probabilities by the KL divergence in both directions.

    He, Liao, Liu, Liu, Cheng, Mei: FastReID, A Pytorch Toolbox for General Instance Re-identification. arXiv, 2020; in
    its project FastDistill.

    Equation:

        weight * T^2 / (2 B) * sum_b [KL(p_t || p_s) + KL(p_s || p_t)],  p = softmax(z / T)

    where z are the logits of student (s) and teacher (t) and b runs over the B images in the batch.

    Implementation: fast-reid calls this loss Jensen-Shannon divergence, but it has no mixture of the two distributions:
    it is half of Jeffreys' divergence, and so is the loss here. The student's probabilities pass gradient in both
    directions.

    Defaults: temperature 16 and weight 1, in addition to the task loss, are fast-reid's.

    Args:
        temperature: Temperature T.
        weight: Weight of the loss term.
    """

    kind: ClassVar[str] = "logits"
    search: ClassVar[Mapping[str, Range]] = {"temperature": Range(2, 32), "weight": Range(0.1, 10)}
    needs = Needs(classifier=True)

    def __init__(
        self, temperature: Annotated[float, Field(gt=0)] = 16.0, weight: Annotated[float, Field(ge=0)] = 1.0
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = weight

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        forward = kl_divergence(student.logits, teacher.logits, self.temperature)
        reverse = kl_divergence(teacher.logits, student.logits, self.temperature)
        return {"js": self.weight * (forward + reverse) / 2}
