"""No distillation: the baseline of every comparison."""

from typing import ClassVar

from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Needs


@METHODS.register_module("none")
class NoDistillation(Method):
    """No distillation: the student is trained with the task loss alone.

    Equation: no term is added to the task loss.
    """

    kind: ClassVar[str] = "none"
    needs = Needs(teacher=False)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        return {}
