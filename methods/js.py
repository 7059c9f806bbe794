"""The symmetric divergence of fast-reid."""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses import kl_divergence
from benchmark.method import Method, Needs
from benchmark.model.features import Features
from benchmark.registry import METHODS


@METHODS.register_module("js")
class JS(Method):
    """Symmetric divergence: class probabilities approach the teacher's in both directions of the divergence.

    He, Liao, Liu, Liu, Cheng, Mei: FastReID, A Pytorch Toolbox for General Instance Re-identification. arXiv, 2020; in
    its project FastDistill.

    Equation: weight * T^2 / (2 B) * sum_b [KL(p_t || p_s) + KL(p_s || p_t)], p = softmax(z / T), z the logits of the
    classifier heads, B the number of images in the batch. fast-reid calls it Jensen-Shannon; it has no mixture of the
    two distributions and is half of Jeffreys' divergence, which is what is computed here too. Gradient flows through
    the student's side of both directions. Temperature 16 and weight 1 beside the task loss are fast-reid's.

    Args:
        temperature: T.
        weight: Factor of the term.
    """

    kind: ClassVar[str] = "logits"
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
