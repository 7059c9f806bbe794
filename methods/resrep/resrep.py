"""ResRep: compactors whose smallest rows forget, while the others remember."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.compression.compactor import CompactableBlock, compactable_blocks
from benchmark.compression.compactor_method import CompactorMethod
from benchmark.compression.lasso import along, edit_gradients, group_norms, lasso_strength
from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.losses import kl_divergence
from benchmark.method import Budget, Needs, Plan
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.fold import fold_batchnorm
from benchmark.registry import METHODS

from .lowest_rows import lowest_rows
from .width_macs import WidthMACs

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


@METHODS.register_module("resrep")
class ResRep(CompactorMethod):
    """ResRep: rows of compactors that are smallest by norm stop learning, and vanish.

    Ding, Hao, Tan, Liu, Han, Guo, Ding. ResRep: Lossless CNN Pruning via Decoupling Remembering and Forgetting.
    ICCV 2021.

    A 1x1 convolution C, the compactor, starts as the identity behind the first and the second batch-norm of every
    bottleneck, and behind the first of every basic block. Equation, for every row c of every compactor:

        gradient <- m_c * d L / d C_c + lambda * C_c / || C_c ||_2

    with L the loss, and m_c = 0 for the rows of the smallest norms in the whole network, so many that the rest would
    cost `target_macs`, else 1. From `mask_from` of the training on, the m are found anew every `mask_every` steps, and
    each time up to `mask_rows` more are 0. Compactors move by SGD with a momentum of their own and without weight
    decay. Rows below `threshold` are removed; at the end batch-norms and compactors are folded into the convolutions
    before them, and a plain, narrower network remains.

    What L is besides the task's loss: ResRep is about pruning and has no teacher. Here, for a comparison with methods
    that have one, kl_weight * T^2 KL(teacher logits || student logits) is added; with `kl_weight` 0, as in the preset
    `published`, no teacher is used.

    Published, for ImageNet (180 epochs of 5,000 steps): lambda 1e-4, momentum 0.99, masks every 200 steps after 5
    epochs, 4 rows each time, 0.455 of the MACs of a ResNet-50. By these numbers masking is over in the first quarter of
    the training, and a masked row vanishes in about 2 epochs. Counts of steps mean something else in a training of
    another length: the defaults say the same in shares of it, with longer for rows to vanish. Departures: the student
    starts as the recipe says, not from trained weights; rows are removed during training (`dynamic`); compression ends
    when the target is reached; a masked row also forgets its velocity, but for what is along itself, and stops at zero,
    where momentum would let it circle until the learning rate has decayed. In a bottleneck whose second convolution is
    grouped, only the compactor behind that convolution is put in.

    Args:
        target_macs: Fraction of the uncompressed network's MACs at which compression ends.
        lasso: lambda, or `auto` for the value by which a row masked at `mask_until` has vanished at `vanish_at`.
        momentum: Momentum of the compactors.
        mask_from: Share of the training after which masking begins (published: 5 of 180 epochs).
        mask_until: Share of the training at which, by `mask_rows: auto`, every row could be masked.
        vanish_at: Share of the training at which the last masked rows have vanished, by `lasso: auto`.
        mask_every: Steps between two rankings, or `auto` for a hundredth of those from `mask_from` to `mask_until`.
        mask_rows: Further rows that each ranking may mask, or `auto`, see `mask_until`.
        kl_weight: Weight of the KL term; 0 for none, and no teacher.
        temperature: T of the KL term.
        threshold: Rows with a smaller norm are removed.
        dynamic: Remove rows during training.
    """

    needs = Needs(classifier=True)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "published": {
            "target_macs": 0.455,
            "lasso": 1e-4,
            "mask_every": 200,
            "mask_rows": 4,
            "kl_weight": 0.0,
            "dynamic": False,
        }
    }

    def __init__(
        self,
        target_macs: Share = 0.455,
        lasso: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto",
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        mask_from: Annotated[float, Field(ge=0, lt=1)] = 5 / 180,
        mask_until: Share = 45 / 180,
        vanish_at: Share = 60 / 180,
        mask_every: Count | Literal["auto"] = "auto",
        mask_rows: Count | Literal["auto"] = "auto",
        kl_weight: Annotated[float, Field(ge=0)] = 1.0,
        temperature: Annotated[float, Field(gt=0)] = 2.0,
        threshold: Annotated[float, Field(gt=0)] = 1e-5,
        dynamic: bool = True,
    ) -> None:
        super().__init__(threshold, dynamic, Budget("macs", target_macs))
        if "auto" in (lasso, mask_every, mask_rows) and not mask_from < mask_until < vanish_at:
            raise UserError(
                f"resrep: mask_from ({mask_from}), mask_until ({mask_until}) and vanish_at ({vanish_at}) must come in "
                "this order"
            )
        self.lasso, self.momentum = lasso, momentum
        self.mask_from, self.mask_until, self.vanish_at = mask_from, mask_until, vanish_at
        self.mask_every, self.mask_rows = mask_every, mask_rows
        self.kl_weight, self.temperature = kl_weight, temperature
        if not kl_weight:
            self.needs = Needs(teacher=False)

    def places(self, network: Embedder) -> list[CompactableBlock]:
        return compactable_blocks(network, both=True)

    def prepare(self, student: Embedder, teacher: Embedder | None, plan: Plan) -> None:
        self.insert(student, teacher, plan)
        self.allowed = self.budget.target * self.reference.macs if self.budget else 0
        example = torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device=next(student.parameters()).device)
        deployed = fold_batchnorm(self.merged(student, self.widths), example)
        self.macs = WidthMACs(deployed, self.places(student), plan.image_size)
        self.strength = lasso_strength("resrep", self.lasso, plan, self.mask_until, self.vanish_at, self.momentum)
        self.mask_step = round(self.mask_from * plan.steps)
        masking = max(1, round(self.mask_until * plan.steps) - self.mask_step)
        self.every = max(1, masking // 100) if self.mask_every == "auto" else self.mask_every
        self.rows = sum(self.widths)
        rankings = 1 + (masking - 1) // self.every
        self.more = -(-self.rows // rankings) if self.mask_rows == "auto" else self.mask_rows
        for i, place in enumerate(self.places(student)):
            self.register_buffer(f"mask{i}", torch.ones(place.width, device=place.weight.device))
            self.register_buffer(f"velocity{i}", torch.zeros_like(place.weight))

    @property
    def masks(self) -> list[Tensor]:
        return [self.get_buffer(f"mask{i}") for i in range(len(self.widths))]

    def kept(self, place: int, index: Tensor) -> None:
        for name in (f"mask{place}", f"velocity{place}"):
            value = self.get_buffer(name)
            setattr(self, name, value.index_select(0, index.to(value.device)))

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        if not self.kl_weight or teacher is None:
            return {}
        return {"resrep_kl": self.kl_weight * kl_divergence(student.logits, teacher.logits, self.temperature)}

    def after_backward(self, student: Embedder) -> None:
        weights = [place.weight for place in self.places(student)]
        if self.compressing:
            past = self.step - self.mask_step
            if past >= 0 and past % self.every == 0:
                self._rank(weights, self.more * (1 + past // self.every))
            edit_gradients(weights, self.masks, self.strength)
        self._move(weights)
        self.step += 1

    def _rank(self, weights: list[nn.Parameter], limit: int) -> None:
        """Find the masks anew, with at most `limit` rows masked or removed. The one thing that waits for the device."""
        norms = torch.cat([group_norms(weight.detach()) for weight in weights]).double().cpu().numpy()
        ends = np.cumsum([len(weight) for weight in weights])
        removed = self.rows - int(ends[-1])
        masked = lowest_rows(np.split(norms, ends[:-1]), self.macs, self.allowed, limit - removed)
        for mask, low in zip(self.masks, masked, strict=True):
            mask.copy_(torch.from_numpy(~low))

    @torch.no_grad()
    def _move(self, weights: list[nn.Parameter]) -> None:
        """SGD on the compactors; their gradients are used up, so that the optimiser passes them by."""
        rate = self.plan.learning_rate(self.step)
        for i, weight in enumerate(weights):
            assert weight.grad is not None
            velocity, masked = self.get_buffer(f"velocity{i}"), along(self.masks[i] == 0, weight, 0)
            if self.compressing:
                velocity.copy_(torch.where(masked, _radial(velocity, weight), velocity))
            velocity.mul_(self.momentum).add_(weight.grad)
            moved = weight - rate * velocity
            if self.compressing:
                crosses = masked & ((moved * weight).sum(dim=(1, 2, 3), keepdim=True) <= 0)
                moved.masked_fill_(crosses, 0)
                velocity.masked_fill_(crosses, 0)
            weight.copy_(moved)
            weight.grad = None


def _radial(velocity: Tensor, weight: Tensor) -> Tensor:
    """The part of every row's velocity that is along the row; 0 for a row that is zero."""
    dot, square = ((weight * other).sum(dim=(1, 2, 3), keepdim=True) for other in (velocity, weight))
    return weight * (dot / square.clamp(min=1e-24))
