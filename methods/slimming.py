"""Network slimming."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark.compression.compression_method import CompressionMethod, budget_from
from benchmark.compression.lasso import lasso_strength, require_derivable
from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.method import Needs, Plan, Progress, RecipePlan
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.residual_blocks import deployed_size, fewest, inner_widths, narrowed
from benchmark.model.surgery import ChannelSelection
from benchmark.registry import METHODS

Fraction = Annotated[float, Field(gt=0, le=1)]
_NAMED = r"^(\d+(\.\d+)?\s*\*\s*)?(mean|median)$"


@METHODS.register_module("slimming")
class Slimming(CompressionMethod):
    """Network slimming: channels whose batch-norm scale a lasso has made small are removed, and the rest trained on.

    Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming. ICCV 2017.

    Equation: beside the task loss, lambda * sum |gamma| over the scales gamma of the batch-norms within the residual
    blocks (between the convolutions of a block). Once, after `prune_at` of the epochs, the channels with the smallest
    |gamma| of all go: all below `threshold`, one for all layers, or, with a target, no more of them than it takes until
    the deployed network costs target * the teacher's. The largest of each layer stays. The lasso then ends, and
    training goes on with the rest.

    The lasso is added to the gradient, which equals adding it to the loss. Departures from the paper: it names a share
    of the channels, and here that follows from the cost or the threshold; it trains the narrow network by a schedule of
    its own, and here one schedule covers both parts; what blocks exchange keeps its width (the paper selects channels
    behind it). A constant lambda ties compression to the number of steps; that of `auto` brings a scale of 1 that
    nothing but lasso and weight decay moves to 0 just when channels go. Where no removal is enough, because stem,
    shortcuts and neck alone cost more than the target, every inner width becomes 1 and the record says that the budget
    was not met.

    Args:
        lasso: lambda, or `auto` as above (SGD only).
        prune_at: Share of the epochs after which channels are removed.
        target_macs: MACs of the student as a fraction of the teacher's; half, a round number, by default.
        target_params: The same for parameters; needs `target_macs` to be null.
        threshold: In the notation of scikit-learn's `SelectFromModel`: a number, "mean" or "median" of all |gamma|, or
            a multiple of one, such as "1.25*mean". Needs both targets to be null.
    """

    needs = Needs(teacher=False, same_backbone=True)

    def __init__(
        self,
        lasso: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto",
        prune_at: Fraction = 0.5,
        target_macs: Fraction | None = 0.5,
        target_params: Fraction | None = None,
        threshold: Annotated[float, Field(ge=0)] | Annotated[str, Field(pattern=_NAMED)] | None = None,
    ) -> None:
        super().__init__()
        self.lasso, self.prune_at, self.threshold = lasso, prune_at, threshold
        self.budget = budget_from("slimming", target_macs, target_params)
        if (self.budget is None) == (threshold is None):
            raise UserError(
                "slimming: give one of target_macs, target_params and threshold, and switch the others off, as in "
                "--set method.target_macs=null --set method.threshold=median"
            )
        self.pruned = False

    def check(self, student: Embedder, teacher: Embedder | None, plan: RecipePlan) -> None:
        inner_widths(student, "slimming")
        require_derivable("slimming", self.lasso, plan.optimizer)

    def prepare(self, student: Embedder, teacher: Embedder | None, plan: Plan) -> None:
        self.widths = [place.width for place in inner_widths(student, "slimming")]
        self.image_size = plan.image_size
        self.reference = deployed_size(teacher or student, plan.image_size)
        self.prune_after = max(1, round(self.prune_at * plan.epochs))
        self.strength = lasso_strength("slimming", self.lasso, plan, start=0, vanish_at=self.prune_after / plan.epochs)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        return {}

    def after_backward(self, student: Embedder) -> None:
        if self.pruned:
            return
        for place in inner_widths(student, "slimming"):
            scale = place.norm.weight
            assert scale.grad is not None
            scale.grad.add_(scale.detach().sign(), alpha=self.strength)

    def after_epoch(self, student: Embedder, progress: Progress) -> list[ChannelSelection]:
        if self.pruned or progress.epoch < self.prune_after:
            return []
        self.pruned = True
        changes: list[ChannelSelection] = []
        for place, channels in zip(inner_widths(student, "slimming"), self._remaining(student), strict=True):
            if len(channels) < place.width:
                changes += place.keep(channels)
        self.widths = [place.width for place in inner_widths(student, "slimming")]
        return changes

    def structure(self) -> dict[str, Any]:
        return {"widths": self.widths}

    def restore(self, student: Embedder, structure: dict[str, Any]) -> None:
        # Which channels were kept is in the checkpoint's weights; here only the shapes must fit.
        for place, width in zip(inner_widths(student, "slimming"), structure["widths"], strict=True):
            if width < place.width:
                place.keep(torch.arange(width))
        self.widths = list(structure["widths"])

    def report(self, student: Embedder) -> dict[str, float]:
        size = deployed_size(student, self.image_size)
        return {"channels": sum(self.widths), "parameters": size.parameters, "macs": size.macs}

    def minimal_student(self, student: Embedder) -> Embedder:
        return narrowed(student, [1] * len(self.widths))

    def get_extra_state(self) -> Tensor:
        """Whether the channels are gone; a tensor, because checkpoints hold nothing else."""
        return torch.tensor(int(self.pruned))

    def set_extra_state(self, state: Tensor) -> None:
        self.pruned = bool(state)

    def _remaining(self, student: Embedder) -> list[Tensor]:
        """For every inner width the channels that stay."""
        layers = [place.norm.weight.detach().abs().cpu() for place in inner_widths(student, "slimming")]
        # The largest of a layer is no candidate.
        order = [
            (i, channel)
            for _, i, channel in sorted(
                (float(scale), i, channel)
                for i, layer in enumerate(layers)
                for channel, scale in enumerate(layer)
                if channel != int(layer.argmax())
            )
        ]

        gone = set(order[: self._excess(student, layers, order)])
        return [torch.tensor([c for c in range(len(layer)) if (i, c) not in gone]) for i, layer in enumerate(layers)]

    def _excess(self, student: Embedder, layers: Sequence[Tensor], order: Sequence[tuple[int, int]]) -> int:
        """How many of the channels (layer, channel), in this order, go."""
        budget = self.budget
        if budget is None:
            assert self.threshold is not None
            limit = _limit(self.threshold, torch.cat(list(layers)))
            return sum(float(layers[i][channel]) < limit for i, channel in order)
        allowed = budget.target * budget.cost(self.reference)

        def met(removed: int) -> bool:
            gone = Counter(i for i, _ in order[:removed])
            widths = [len(layer) - gone[i] for i, layer in enumerate(layers)]
            return budget.cost(deployed_size(student, self.image_size, widths)) <= allowed

        return fewest(len(order), met)


def _limit(threshold: float | str, scales: Tensor) -> float:
    """The number that a threshold stands for."""
    if not isinstance(threshold, str):
        return threshold
    factor, _, name = threshold.rpartition("*")
    statistic = scales.double().mean() if name.strip() == "mean" else scales.double().quantile(0.5)
    return float(factor or 1) * float(statistic)
