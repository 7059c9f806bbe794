"""Network slimming."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark.compression.lasso_strength import lasso_strength
from benchmark.compression.one_budget import one_budget
from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.method import Method, Plan, Progress
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.residual_blocks import deployed_size, fewest, inner_widths, narrowed
from benchmark.model.surgery import Kept
from benchmark.needs import Needs
from benchmark.registry import METHODS

Fraction = Annotated[float, Field(gt=0, le=1)]


@METHODS.register_module("slimming")
class Slimming(Method):
    """Network slimming: channels whose batch-norm scale a lasso has made small are removed, and the rest trained on.

    Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming. ICCV 2017.

    Equation: beside the task loss, lambda * sum |gamma| over the scales gamma of the batch-norms within the residual
    blocks (between the convolutions of a block). Once, after `prune_at` of the epochs, the channels with the smallest
    |gamma| of all go, no more of them than it takes until the deployed network costs target * the teacher's: one
    threshold for all layers. The largest of each layer stays. The lasso then ends, and training goes on with the rest.

    The lasso is added to the gradient, which equals adding it to the loss. Departures from the paper: it names a share
    of the channels, and here the share follows from the cost; it trains the narrow network by a schedule of its
    own, and here one schedule covers both parts; what blocks exchange keeps its width (the paper selects channels
    behind it). A constant lambda ties compression to the number of steps; that of `auto` brings a scale of 1 that
    nothing but lasso and weight decay moves to 0 just when channels go. Where no removal is enough, because stem,
    shortcuts and neck alone cost more than the target, every inner width becomes 1 and the record says that the budget
    was not met.

    Args:
        lasso: lambda, or `auto` as above (SGD only).
        prune_at: Share of the epochs after which channels are removed.
        target_macs: MACs of the student as a fraction of the teacher's; half, a round number, by default.
        target_params: The same for parameters; needs `target_macs` to be null.
    """

    kind: ClassVar[str] = "compression"
    needs = Needs(teacher=False, same_backbone=True)
    recipe: ClassVar[Mapping[str, Any]] = {"student": {"like": "teacher"}}

    def __init__(
        self,
        lasso: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto",
        prune_at: Fraction = 0.5,
        target_macs: Fraction | None = 0.5,
        target_params: Fraction | None = None,
    ) -> None:
        super().__init__()
        self.lasso, self.prune_at = lasso, prune_at
        self.budget = one_budget("slimming", target_macs, target_params)
        if self.budget is None:
            raise UserError("slimming: give target_macs or target_params, such as --set method.target_macs=0.5")
        self.pruned = False

    def check(self, student: Embedder, teacher: Embedder, image_size: tuple[int, int]) -> None:
        inner_widths(student, "slimming")

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        assert self.budget is not None
        self.widths = [place.width for place in inner_widths(student, "slimming")]
        self.image_size = plan.image_size
        self.allowed = self.budget.target * self.budget.of(deployed_size(teacher, plan.image_size))
        self.prune_after = max(1, round(self.prune_at * plan.epochs))
        self.strength = lasso_strength("slimming", self.lasso, plan, start=0, vanish_at=self.prune_after / plan.epochs)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        return {}

    def after_backward(self, student: Embedder) -> None:
        if self.pruned:
            return
        for place in inner_widths(student, "slimming"):
            scale = place.norm.weight
            assert scale.grad is not None
            scale.grad.add_(scale.detach().sign(), alpha=self.strength)

    def after_epoch(self, student: Embedder, progress: Progress) -> list[Kept]:
        if self.pruned or progress.epoch < self.prune_after:
            return []
        self.pruned = True
        changes: list[Kept] = []
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

    def smallest(self, student: Embedder) -> Embedder:
        return narrowed(student, [1] * len(self.widths))

    def get_extra_state(self) -> Tensor:
        """Whether the channels are gone; a tensor, because checkpoints hold nothing else."""
        return torch.tensor(int(self.pruned))

    def set_extra_state(self, state: Tensor) -> None:
        self.pruned = bool(state)

    def _remaining(self, student: Embedder) -> list[Tensor]:
        """For every inner width the channels that stay."""
        assert self.budget is not None
        budget = self.budget
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

        def affordable(removed: int) -> bool:
            gone = Counter(i for i, _ in order[:removed])
            widths = [len(layer) - gone[i] for i, layer in enumerate(layers)]
            return budget.of(deployed_size(student, self.image_size, widths)) <= self.allowed

        gone = set(order[: fewest(len(order), affordable)])
        return [torch.tensor([c for c in range(len(layer)) if (i, c) not in gone]) for i, layer in enumerate(layers)]
