"""The student alone: the row that every comparison needs."""

from typing import ClassVar

from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.method import Method, Needs
from benchmark.model.features import Features
from benchmark.registry import METHODS


@METHODS.register_module("none")
class NoDistillation(Method):
    """No distillation: the student is trained by the task loss alone.

    Equation: nothing is added to the task loss.
    """

    kind: ClassVar[str] = "none"
    needs = Needs(teacher=False)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        return {}
