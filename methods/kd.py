"""Knowledge distillation with softened class probabilities."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Needs, Range
from benchmark.losses import kl_divergence


@METHODS.register_module("kd")
class KD(Method):
    """Knowledge distillation: match the teacher's softened class probabilities.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network. NIPS Deep Learning Workshop, 2014.

    Equation:

        weight * T^2 / B * sum_b KL(softmax(z_t / T) || softmax(z_s / T))

    where z are the logits of student (s) and teacher (t) and b runs over the B images in the batch.

    Defaults: temperature 2 and weight 1, in addition to the whole task loss, as in retrieval codes (AIR_Distiller, CDD,
    DEAP). The preset `classification` has the temperature of RepDistiller and mdistiller, which weight this term with
    0.9 and the cross-entropy with 0.1: the same ratio is weight 9.

    Args:
        temperature: Temperature T.
        weight: Weight of the loss term.
    """

    kind: ClassVar[str] = "logits"
    search: ClassVar[Mapping[str, Range]] = {"temperature": Range(1, 16), "weight": Range(0.1, 10)}
    needs = Needs(classifier=True)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"classification": {"temperature": 4.0, "weight": 9.0}}

    def __init__(
        self, temperature: Annotated[float, Field(gt=0)] = 2.0, weight: Annotated[float, Field(ge=0)] = 1.0
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = weight

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {"kd": self.weight * kl_divergence(student.logits, teacher.logits, self.temperature)}
