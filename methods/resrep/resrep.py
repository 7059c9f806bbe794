"""ResRep: pruning by compactors whose smallest rows get no gradient from the loss."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark import METHODS, Batch, Budget, Embedder, Features, Needs, Plan, UserError
from benchmark.compression.compactor import RowSite, row_sites
from benchmark.compression.compactor_method import CompactorMethod
from benchmark.compression.lasso import edit_gradients, group_norms, lasso_strength, per_group
from benchmark.losses import kl_divergence

from .masking import lowest_rows

Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


@METHODS.register_module("resrep")
class ResRep(CompactorMethod):
    """ResRep: prune the smallest rows of compactors, which get no gradient from the loss and vanish.

    Ding, Hao, Tan, Liu, Han, Guo, Ding. ResRep: Lossless CNN Pruning via Decoupling Remembering and Forgetting. ICCV
    2021.

    A compactor, a 1x1 convolution C that starts as the identity, is inserted behind the first and the second batch norm
    of every bottleneck and behind the first batch norm of every basic block.

    Equation: the gradient of every row c of every compactor becomes

        m_c * d L / d C_c + lambda * C_c / || C_c ||_2

    where L is the loss. The mask m_c is 0 for as many rows as have to be removed to reach `target_macs`, those with the
    smallest norms in the whole network, and 1 for all others. Masks are updated every `mask_every` steps after the
    share `mask_from` of the training, and each update may mask up to `mask_rows` more rows. Compactors are optimized by
    SGD with their own momentum and without weight decay. Rows with a norm below `threshold` are removed. At the end,
    batch norms and compactors are folded into the convolutions before them, so that a plain, narrower network remains.

    Loss: ResRep is a pruning method and has no teacher. To compare it with methods that have one, L is the task loss
    plus kl_weight * T^2 KL(softmax(z_t / T) || softmax(z_s / T)), where z are the logits of teacher and student. With
    `kl_weight` 0, as in the preset `published`, there is no teacher.

    Implementation: differences from the paper.

    - The student starts with the initial weights of the recipe, not with trained weights.
    - Rows are removed during training (`dynamic`), and compression ends when the target is reached.
    - The velocity of a masked row is projected onto the row, and the row stops at zero. Otherwise, momentum would make
      it circle around zero until the learning rate has decayed.
    - If the second convolution of a bottleneck is grouped, the only compactor is behind that convolution.

    Defaults: published for ImageNet (180 epochs of 5,000 steps) are lambda 1e-4, momentum 0.99, masks every 200 steps
    after 5 epochs, 4 rows at a time, and 0.455 of the MACs of a ResNet-50. With these values, masking ends within the
    first quarter of the training, and a masked row vanishes in about 2 epochs. Numbers of steps do not carry over to a
    training of another length. The defaults express them as shares of the training, with more time for rows to vanish.

    Args:
        target_macs: Fraction of the uncompressed network's MACs at which compression ends.
        lasso: lambda, or `auto` for the value at which a row that is masked at `mask_until` has vanished at
            `vanish_at`.
        momentum: Momentum of the compactors.
        mask_from: Share of the training after which masking begins (published: 5 of 180 epochs).
        mask_until: Share of the training after which, with `mask_rows: auto`, every row could be masked.
        vanish_at: Share of the training after which, with `lasso: auto`, the last masked rows have vanished.
        mask_every: Steps between two updates of the masks, or `auto` for a hundredth of the steps from `mask_from` to
            `mask_until`.
        mask_rows: Maximum number of rows that an update adds, or `auto`, see `mask_until`.
        kl_weight: Weight of the KL term; 0 for no term and no teacher.
        temperature: Temperature T of the KL term.
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
        target_macs: Fraction = 0.455,
        lasso: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto",
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99,
        mask_from: Annotated[float, Field(ge=0, lt=1)] = 5 / 180,
        mask_until: Fraction = 45 / 180,
        vanish_at: Fraction = 60 / 180,
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
                f"{self.name}: mask_from ({mask_from}), mask_until ({mask_until}) and vanish_at ({vanish_at}) must be "
                "in ascending order"
            )
        self.target_macs = target_macs
        self.lasso, self.momentum = lasso, momentum
        self.mask_from, self.mask_until, self.vanish_at = mask_from, mask_until, vanish_at
        self.mask_every, self.mask_rows = mask_every, mask_rows
        self.kl_weight, self.temperature = kl_weight, temperature
        if not kl_weight:
            self.needs = Needs(teacher=False)

    def sites(self, network: Embedder) -> list[RowSite]:
        return row_sites(network, both=True)

    def prepare(self, student: Embedder, teacher: Embedder | None, plan: Plan) -> None:
        super().prepare(student, teacher, plan)
        self.allowed = self.target_macs * self.reference.macs
        sites = self.sites(student)
        self.strength = lasso_strength(
            self.name, self.lasso, plan, start=self.mask_until, vanish_at=self.vanish_at, momentum=self.momentum
        )
        self.mask_step = round(self.mask_from * plan.steps)
        masking_steps = max(1, round(self.mask_until * plan.steps) - self.mask_step)
        self.update_every = max(1, masking_steps // 100) if self.mask_every == "auto" else self.mask_every
        self.total_rows = sum(self.widths)
        updates = 1 + (masking_steps - 1) // self.update_every
        self.rows_per_update = -(-self.total_rows // updates) if self.mask_rows == "auto" else self.mask_rows
        for i, site in enumerate(sites):
            self.register_buffer(f"mask{i}", torch.ones(site.width, device=site.weight.device))
            self.register_buffer(f"velocity{i}", torch.zeros_like(site.weight))

    @property
    def masks(self) -> list[Tensor]:
        return [self.get_buffer(f"mask{i}") for i in range(len(self.widths))]

    def rows_kept(self, site: int, index: Tensor) -> None:
        for name in (f"mask{site}", f"velocity{site}"):
            value = self.get_buffer(name)
            setattr(self, name, value.index_select(0, index.to(value.device)))

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        if not self.kl_weight:
            return {}
        assert teacher is not None
        return {"resrep_kl": self.kl_weight * kl_divergence(student.logits, teacher.logits, self.temperature)}

    def after_backward(self, student: Embedder) -> None:
        weights = [site.weight for site in self.sites(student)]
        if self.compressing:
            past = self.step - self.mask_step
            if past >= 0 and past % self.update_every == 0:
                self._update_masks(weights, self.rows_per_update * (1 + past // self.update_every))
            edit_gradients(weights, self.strength, masks=self.masks)
        self._sgd_step(weights)
        self.step += 1

    def _update_masks(self, weights: list[nn.Parameter], limit: int) -> None:
        """Recompute the masks, with at most `limit` rows masked or removed. Waits for the device."""
        norms = torch.cat([group_norms(weight.detach()) for weight in weights]).double().cpu().numpy()
        ends = np.cumsum([len(weight) for weight in weights])
        removed = self.total_rows - int(ends[-1])
        masked = lowest_rows(np.split(norms, ends[:-1]), self.cost.macs, self.allowed, limit - removed)
        for mask, low in zip(self.masks, masked, strict=True):
            mask.copy_(torch.from_numpy(~low))

    @torch.no_grad()
    def _sgd_step(self, weights: list[nn.Parameter]) -> None:
        """Update the compactors, and delete their gradients so that the optimizer of the training skips them."""
        rate = self.plan.learning_rate(self.step)
        for i, weight in enumerate(weights):
            assert weight.grad is not None
            velocity, masked = self.get_buffer(f"velocity{i}"), per_group(self.masks[i] == 0, weight, 0)
            if self.compressing:
                velocity.copy_(torch.where(masked, _radial(velocity, weight), velocity))
            velocity.mul_(self.momentum).add_(weight.grad)
            moved = weight - rate * velocity
            if self.compressing:
                crosses_zero = masked & ((moved * weight).sum(dim=(1, 2, 3), keepdim=True) <= 0)
                moved.masked_fill_(crosses_zero, 0)
                velocity.masked_fill_(crosses_zero, 0)
            weight.copy_(moved)
            weight.grad = None


def _radial(velocity: Tensor, weight: Tensor) -> Tensor:
    """Return the component of each row's velocity along the row; 0 for a row of zeros."""
    dot, square = ((weight * other).sum(dim=(1, 2, 3), keepdim=True) for other in (velocity, weight))
    return weight * (dot / square.clamp(min=1e-24))
