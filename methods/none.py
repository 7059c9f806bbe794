"""No distillation: the baseline of every comparison."""

from typing import ClassVar

from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.method import Method, Needs
from benchmark.model.features import Features
from benchmark.registry import METHODS


@METHODS.register_module("none")
class NoDistillation(Method):
    """No distillation: the student is trained with the task loss alone.

    Equation: no term is added to the task loss.
    """

    kind: ClassVar[str] = "none"
    needs = Needs(teacher=False)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        return {}
