"""A narrower student with one width factor for all residual blocks."""

from bisect import bisect_left
from typing import Annotated

from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Embedder, Features, Needs, Plan, UserError
from benchmark.compression.compression_method import CompressionMethod, budget_from
from benchmark.model.residual_blocks import inner_widths

Fraction = Annotated[float, Field(gt=0, le=1)]


@METHODS.register_module("uniform")
class Uniform(CompressionMethod):
    """Uniform width: train the teacher's architecture with all inner widths multiplied by one factor.

    Filters are selected as in Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets. ICLR 2017.
    That paper determines by experiment how far each layer can be pruned; here, one factor applies to all layers.

    Equation: the inner widths of the residual blocks, between the convolutions of a block, become

        max(1, round(f * width))

    with the largest f at which the deployed network costs no more than the target fraction of the teacher's cost. The
    width between blocks does not change. In each layer, the filters F with the largest L1 norm, sum |F|, are kept. The
    norm includes all inputs of a filter, even those that are removed (the paper's independent, not its greedy, choice).
    No term is added to the task loss: `--method uniform+kd` trains the narrow network with a distillation loss.

    Pruning takes place once, before training, so the optimizer never has the wide network. The student starts with the
    initial weights of the recipe, pretrained or random; with `--set student.weights=teacher`, it is cut out of the
    trained teacher, as in the paper. If the stem, shortcuts and neck alone cost more than the target, all inner widths
    become 1, and the record states that the budget was not met. The default target is half of the teacher's MACs, a
    round number.

    Args:
        target_macs: MACs of the student as a fraction of the teacher's.
        target_params: Parameters of the student as a fraction of the teacher's; requires `target_macs: null`.
    """

    needs = Needs(teacher=False, same_backbone=True)

    def __init__(self, target_macs: Fraction | None = 0.5, target_params: Fraction | None = None) -> None:
        super().__init__()
        self.budget = budget_from(self.name, target_macs, target_params)
        if self.budget is None:
            raise UserError(
                f"{self.name}: target_macs and target_params are both null; set one, as in --set method.target_macs=0.5"
            )

    def prepare(self, student: Embedder, teacher: Embedder | None, plan: Plan) -> None:
        super().prepare(student, teacher, plan)
        assert self.budget is not None
        budget = self.budget
        inner = inner_widths(student)
        widest = max(each.width for each in inner)

        def widths(removed: int) -> list[int]:
            """Return the inner widths when the widest layer has lost this many channels."""
            return [max(1, round(each.width * (widest - removed) / widest)) for each in inner]

        def meets_budget(removed: int) -> bool:
            return budget.is_met(self.cost.size(widths(removed)), self.reference)

        removed = bisect_left(range(widest - 1), True, key=meets_budget)
        kept = [largest_filters(each.conv.weight, width) for each, width in zip(inner, widths(removed), strict=True)]
        for each, channels in zip(inner, kept, strict=True):
            each.keep(channels)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        return {}


def largest_filters(weight: Tensor, count: int) -> Tensor:
    """Return (count,) int64, ascending: the filters with the largest L1 norm, the lower ones among equal norms."""
    norms = weight.detach().abs().flatten(1).sum(1).cpu()
    return norms.argsort(descending=True, stable=True)[:count].sort().values
