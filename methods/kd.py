"""Knowledge distillation by the teacher's class probabilities."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses.kl_divergence import kl_divergence
from benchmark.method import Method
from benchmark.model.features import Features
from benchmark.registry import METHODS


@METHODS.register_module("kd")
class KD(Method):
    """Knowledge distillation: the student's softened class probabilities approach the teacher's.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network. NIPS Deep Learning Workshop, 2014.

    Equation: weight * T^2 / B * sum_b KL(softmax(z_t / T) || softmax(z_s / T)), z the logits of the classifier heads.
    Temperature 2 and weight 1 beside the whole task loss, as retrieval codes have it; classification codes use T 4 with
    0.9 of this and 0.1 of the cross-entropy.

    Args:
        temperature: T.
        weight: Factor of the term.
    """

    def __init__(
        self, temperature: Annotated[float, Field(gt=0)] = 2.0, weight: Annotated[float, Field(ge=0)] = 1.0
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = weight

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {"kd": self.weight * kl_divergence(student.logits, teacher.logits, self.temperature)}
