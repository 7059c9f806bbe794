"""Network slimming."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, ChannelSelection, Embedder, Features, Needs, Plan, Progress, RecipePlan, UserError
from benchmark.compression.compression_method import CompressionMethod, budget_from
from benchmark.compression.lasso import check_lasso, lasso_strength
from benchmark.model.residual_blocks import inner_widths

Fraction = Annotated[float, Field(gt=0, le=1)]
_RELATIVE = r"^(\d+(\.\d+)?\s*\*\s*)?(mean|median)$"


@METHODS.register_module("slimming")
class Slimming(CompressionMethod):
    """Network slimming: shrink batch norm scales with a lasso, and remove the channels with the smallest scales.

    Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming. ICCV 2017.

    Equation: in addition to the task loss,

        lambda * sum |gamma|

    over the scales gamma of the batch norms between the convolutions of the residual blocks. Channels are removed once,
    after the share `prune_at` of the epochs, in ascending order of |gamma| over all layers: with a target, no more than
    the deployed network needs to meet this fraction of the teacher's cost; with `threshold`, all below it. The largest
    channel of each layer remains. The lasso then ends, and training continues with the remaining channels.

    Implementation: the lasso is added to the gradient, which equals adding it to the loss. Differences from the paper:
    it removes a given share of the channels, which here follows from the target cost or from the threshold; it trains
    the narrow network with a separate schedule, and here one schedule covers both parts; it also selects channels at
    the input of a block, and here the width between blocks does not change.

    A constant lambda ties compression to the number of steps. With `lasso: auto`, a scale of 1 on which only lasso and
    weight decay act has reached 0 when channels are removed. If the stem, shortcuts and neck alone cost more than the
    target, all inner widths become 1, and the record states that the budget was not met.

    Args:
        lasso: lambda, or `auto` as above (SGD only).
        prune_at: Share of the epochs after which channels are removed.
        target_macs: MACs of the student as a fraction of the teacher's; half, a round number, by default.
        target_params: Parameters of the student as a fraction of the teacher's; requires `target_macs: null`.
        threshold: As in scikit-learn's `SelectFromModel`: a number, "mean" or "median" of all |gamma|, or a multiple of
            one, such as "1.25*mean". Requires both targets to be null.
    """

    needs = Needs(teacher=False, same_backbone=True)

    def __init__(
        self,
        lasso: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto",
        prune_at: Fraction = 0.5,
        target_macs: Fraction | None = 0.5,
        target_params: Fraction | None = None,
        threshold: Annotated[float, Field(ge=0)] | Annotated[str, Field(pattern=_RELATIVE)] | None = None,
    ) -> None:
        super().__init__()
        self.lasso, self.prune_at, self.threshold = lasso, prune_at, threshold
        self.budget = budget_from(self.name, target_macs, target_params)
        if (self.budget is None) == (threshold is None):
            raise UserError(
                f"{self.name}: set exactly one of target_macs ({target_macs}), target_params ({target_params}) and "
                f"threshold ({threshold}), as in --set method.target_macs=null --set method.threshold=median"
            )
        self.pruned = False

    def check(self, student: Embedder, teacher: Embedder | None, plan: RecipePlan) -> None:
        check_lasso(self.name, self.lasso, plan.optimizer)
        super().check(student, teacher, plan)

    def prepare(self, student: Embedder, teacher: Embedder | None, plan: Plan) -> None:
        super().prepare(student, teacher, plan)
        self.widths = [inner.width for inner in inner_widths(student)]
        self.prune_after = max(1, round(self.prune_at * plan.epochs))
        self.strength = lasso_strength(self.name, self.lasso, plan, start=0, vanish_at=self.prune_after / plan.epochs)

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        return {}

    def after_backward(self, student: Embedder) -> None:
        if self.pruned:
            return
        for inner in inner_widths(student):
            assert inner.scale.grad is not None
            inner.scale.grad.add_(inner.scale.detach().sign(), alpha=self.strength)

    def after_epoch(self, student: Embedder, progress: Progress) -> list[ChannelSelection]:
        if self.pruned or progress.epoch < self.prune_after:
            return []
        self.pruned = True
        changes: list[ChannelSelection] = []
        for inner, channels in zip(inner_widths(student), self._remaining_channels(student), strict=True):
            if len(channels) < inner.width:
                changes += inner.keep(channels)
        self.widths = [inner.width for inner in inner_widths(student)]
        return changes

    def structure(self) -> dict[str, Any]:
        return {"widths": self.widths}

    def restore(self, student: Embedder, structure: dict[str, Any]) -> None:
        # Only shapes matter here: the weights of the remaining channels come from the checkpoint.
        self.widths = list(structure["widths"])
        for inner, width in zip(inner_widths(student), self.widths, strict=True):
            if width < inner.width:
                inner.keep(torch.arange(width))

    def get_extra_state(self) -> Tensor:
        """Return whether channels were removed. A tensor, because a checkpoint holds tensors only."""
        return torch.tensor(int(self.pruned))

    def set_extra_state(self, state: Tensor) -> None:
        self.pruned = bool(state)

    def _remaining_channels(self, student: Embedder) -> list[Tensor]:
        """Return the channels to keep, (kept,) int64 for each inner width."""
        layers = [inner.scale.detach().abs().cpu() for inner in inner_widths(student)]
        candidates = sorted(
            (float(scale), i, channel)
            for i, layer in enumerate(layers)
            for channel, scale in enumerate(layer)
            if channel != int(layer.argmax())
        )
        order = [(i, channel) for _, i, channel in candidates]
        removed = set(order[: self._removals(layers, order)])
        return [torch.tensor([c for c in range(len(layer)) if (i, c) not in removed]) for i, layer in enumerate(layers)]

    def _removals(self, layers: Sequence[Tensor], order: Sequence[tuple[int, int]]) -> int:
        """Return how many channels (layer, channel) to remove, in this order."""
        budget = self.budget
        if budget is None:
            assert self.threshold is not None
            limit = _resolve_threshold(self.threshold, torch.cat(list(layers)))
            return sum(float(layers[i][channel]) < limit for i, channel in order)

        def meets_budget(removals: int) -> bool:
            removed = Counter(i for i, _ in order[:removals])
            widths = [len(layer) - removed[i] for i, layer in enumerate(layers)]
            return budget.is_met(self.cost.size(widths), self.reference)

        return bisect_left(range(len(order)), True, key=meets_budget)


def _resolve_threshold(threshold: float | str, scales: Tensor) -> float:
    """Return the number that a threshold such as "1.25*mean" stands for."""
    if not isinstance(threshold, str):
        return threshold
    factor, _, name = threshold.rpartition("*")
    statistic = scales.double().mean() if name.strip() == "mean" else scales.double().quantile(0.5)
    return float(factor or 1) * float(statistic)
