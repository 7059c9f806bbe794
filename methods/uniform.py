"""Narrowing by one factor."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from benchmark.compression.compression_method import CompressionMethod, budget_from
from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.method import Needs, Plan, RecipePlan
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.residual_blocks import deployed_size, fewest, inner_widths, narrowed
from benchmark.registry import METHODS

Fraction = Annotated[float, Field(gt=0, le=1)]


@METHODS.register_module("uniform")
class Uniform(CompressionMethod):
    """Uniform width: the teacher's architecture with every inner width times one factor, trained from the start.

    The filters that stay are those of Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets.
    ICLR 2017. That paper finds by trial how much each layer bears; here one factor holds for all.

    Equation: the inner widths of the residual blocks (between the convolutions of a block; what blocks exchange keeps
    its width) become max(1, round(f * width)), with the largest f at which the deployed network costs no more than
    target * the teacher's. In each, the filters F with the largest L1 norm, sum |F|, stay, computed over all their
    inputs whether or not those stay too (the paper's independent, not its greedy, choice). Nothing is added to the
    task loss: `--method uniform+kd` trains the narrow network with a distillation.

    This happens once, before training; the optimiser never sees the wide network. The student's weights start as the
    recipe says, pretrained or random; `--set student.weights=teacher` cuts it out of the trained teacher, as in the
    paper. Where f has no value that is cheap enough, because stem, shortcuts and neck alone cost more, every inner
    width is 1 and the record says that the budget was not met. Half of the teacher's MACs by default, a round number.

    Args:
        target_macs: MACs of the student as a fraction of the teacher's.
        target_params: The same for parameters; needs `target_macs` to be null.
    """

    needs = Needs(teacher=False, same_backbone=True)

    def __init__(self, target_macs: Fraction | None = 0.5, target_params: Fraction | None = None) -> None:
        super().__init__()
        self.budget = budget_from("uniform", target_macs, target_params)
        if self.budget is None:
            raise UserError("uniform: give target_macs or target_params, such as --set method.target_macs=0.5")

    def check(self, student: Embedder, teacher: Embedder | None, plan: RecipePlan) -> None:
        inner_widths(student, "uniform")

    def prepare(self, student: Embedder, teacher: Embedder | None, plan: Plan) -> None:
        assert self.budget is not None
        budget, self.image_size = self.budget, plan.image_size
        places = inner_widths(student, "uniform")
        widths = [place.width for place in places]
        most = max(widths)
        allowed = budget.target * budget.cost(deployed_size(teacher or student, plan.image_size))

        def scaled(removed: int) -> list[int]:
            """Widths at which the widest has lost this many channels."""
            return [max(1, round(width * (most - removed) / most)) for width in widths]

        def affordable(removed: int) -> bool:
            return budget.cost(deployed_size(student, plan.image_size, scaled(removed))) <= allowed

        removed = fewest(most - 1, affordable)
        largest = [_largest(place.conv.weight, width) for place, width in zip(places, scaled(removed), strict=True)]
        for place, channels in zip(places, largest, strict=True):
            place.keep(channels)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        return {}

    def report(self, student: Embedder) -> dict[str, float]:
        size = deployed_size(student, self.image_size)
        channels = sum(place.width for place in inner_widths(student, "uniform"))
        return {"channels": channels, "parameters": size.parameters, "macs": size.macs}

    def minimal_student(self, student: Embedder) -> Embedder:
        return narrowed(student, [1] * len(inner_widths(student, "uniform")))


def _largest(weight: Tensor, count: int) -> Tensor:
    """(count,) int64, ascending: the filters of a convolution with the largest L1 norm; the lower of two equal ones."""
    norms = weight.detach().abs().flatten(1).sum(1).cpu()
    return norms.argsort(descending=True, stable=True)[:count].sort().values
