"""Capacity dynamic distillation."""

import copy
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.losses.kl_divergence import kl_divergence
from benchmark.method import Budget, Method, Plan, Progress
from benchmark.model.cost import Size, count
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.fold import fold_batchnorm
from benchmark.model.surgery import Kept
from benchmark.needs import Needs
from benchmark.registry import METHODS

from .compactable_block import CompactableBlock, compactable_blocks
from .feature_distance import feature_distance
from .gradient_reset import GradientReset
from .lasso import auto_lasso, edit_gradients

Fraction = Annotated[float, Field(gt=0, le=1)]


@METHODS.register_module("cdd")
class CDD(Method):
    """Capacity dynamic distillation: a student as large as its teacher is compressed while it learns.

    Xie, Zhang, Xu, Zhu, He. Capacity Dynamic Distillation for Efficient Image Retrieval. CVPR 2023.

    A 1x1 convolution C, the compactor, starts as the identity in every residual block. Loss, beside the task's:

        kl_weight * T^2 KL(teacher logits || student logits)
        + feature_weight * sum_blocks mean_b || GAP(t) - GAP(s) ||_2      before the compactor, not squared
        + lambda * sum_blocks sum_rows || C_row ||_2

    From `reset_from` of the training on, the gradient of the first terms is set to zero for rows that matter neither to
    an image nor to the teacher's nearest neighbours of it (`GradientReset`); the lasso alone then pulls them to zero.
    Rows below `threshold` are removed, at the end of every epoch (`dynamic`) or once at the end of training, as in the
    released code. Finally batch-norm and compactor are folded into the convolution before them, and a plain, narrower
    network remains. The student's weights start like the teacher's did (pretrained, or random), not from the teacher's.

    Where this departs from the released code (by default; each has an option or is stated here):
    the teacher stays in eval mode (`teacher_batch_statistics`); lambda follows from the schedule (`lasso: 0.004` is the
    released constant for MSMT17); the lasso's pull weakens within one step's length of zero, so that a row comes to
    rest at zero while the learning rate is high, instead of oscillating across it; pruning goes on during training
    (`dynamic`). The lasso is added to the gradient in every phase, which equals adding it to the loss. The queues keep
    the teacher's width when the student narrows, because they are searched with the teacher's features. The preset
    `released` sets all that an option can.

    Args:
        temperature: T of the KL term.
        kl_weight: Weight of the KL term.
        feature_weight: Weight of the feature distance.
        lasso: lambda, or `auto` for the value by which a row that is masked when resetting begins has vanished at
            `vanish_at` of the training.
        reset_from: Share of the training after which resetting begins (released: 20 of 120 epochs).
        vanish_at: Share of the training at which the first masked rows vanish (released: about epoch 27 of 120).
        neighbours: Teacher neighbours per image, itself included.
        ratio: Share of the channels in each list of unimportant ones.
        ratio_of: Whether that is a share of the initial or of the current width, see `GradientReset`.
        recompute: Recompute masks at every step instead of accumulating them.
        queue: Teacher features kept per block; no more than there are training images.
        threshold: Rows with a smaller norm are removed.
        dynamic: Remove rows during training.
        teacher_batch_statistics: Normalise the teacher by the statistics of the batch, as the released code does.
        target_macs: Stop compressing when the student's MACs are this fraction of the teacher's.
        target_params: The same for parameters.
    """

    kind: ClassVar[str] = "compression"
    needs = Needs(classifier=True, same_backbone=True)
    recipe: ClassVar[Mapping[str, Any]] = {"student": {"like": "teacher"}}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "released": {"lasso": 0.004, "dynamic": False, "teacher_batch_statistics": True}
    }

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)] = 2.0,
        kl_weight: float = 1.0,
        feature_weight: float = 0.5,
        lasso: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto",
        reset_from: Annotated[float, Field(ge=0, lt=1)] = 20 / 120,
        vanish_at: Fraction = 27 / 120,
        neighbours: Annotated[int, Field(ge=1)] = 2,
        ratio: Fraction = 0.5,
        ratio_of: Literal["initial", "current"] = "initial",
        recompute: bool = False,
        queue: Annotated[int, Field(ge=1)] = 24_000,
        threshold: Annotated[float, Field(gt=0)] = 1e-5,
        dynamic: bool = True,
        teacher_batch_statistics: bool = False,
        target_macs: Fraction | None = None,
        target_params: Fraction | None = None,
    ) -> None:
        super().__init__()
        if target_macs is not None and target_params is not None:
            raise UserError(
                "cdd: target_macs and target_params are both set; switch one off, as in --set method.target_macs=null"
            )
        if lasso == "auto" and not vanish_at > reset_from:
            raise UserError(f"cdd: vanish_at ({vanish_at}) must come after reset_from ({reset_from})")
        self.temperature, self.kl_weight, self.feature_weight = temperature, kl_weight, feature_weight
        self.lasso, self.reset_from, self.vanish_at = lasso, reset_from, vanish_at
        self.neighbours, self.ratio, self.ratio_of = neighbours, ratio, ratio_of
        self.recompute, self.queue = recompute, queue
        self.threshold, self.dynamic = threshold, dynamic
        self.teacher_batch_statistics = teacher_batch_statistics
        self.budget = _budget(target_macs, target_params)
        self.step = 0
        self.compressing = True

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        blocks, models = compactable_blocks(student), compactable_blocks(teacher)
        self._expect_alike(blocks, models)
        if self.neighbours > plan.batch_size or self.queue < plan.batch_size:
            raise UserError(
                f"cdd: with batches of {plan.batch_size}, neighbours ({self.neighbours}) may be no more and queue "
                f"({self.queue}) no less than that"
            )
        self.plan = plan
        self.teacher_size = count(fold_batchnorm(teacher, _example(teacher)), plan.image_size)
        for block in blocks:
            block.insert()
        self.before = [f"{block.norm_path}.norm" for block in blocks]
        self.after = [block.norm_path for block in blocks]
        self.student_taps = [*self.before, *self.after]
        self.teacher_taps = self.after
        self.gradient_reset = GradientReset(
            [block.compactor.out_channels for block in blocks],
            min(self.queue, max(plan.images, plan.batch_size)),
            self.neighbours,
            self.ratio,
            self.recompute,
            ratio_of=self.ratio_of,
        )
        steps = plan.steps
        self.reset_step = round(self.reset_from * steps)
        if self.lasso == "auto":
            if plan.optimizer != "sgd":
                raise UserError(
                    "cdd's `lasso: auto` is derived for train.optimizer.type: sgd; give a number with others"
                )
            vanish_step = max(self.reset_step + 1, round(self.vanish_at * steps))
            try:
                self.strength = auto_lasso(
                    plan.learning_rates, self.reset_step, vanish_step, plan.momentum, plan.weight_decay
                )
            except (ValueError, OverflowError) as error:
                raise UserError(
                    f"cdd's `lasso: auto` finds no value for this schedule ({error}): give a number, such as 0.004"
                ) from error
        else:
            self.strength = self.lasso
        if self.teacher_batch_statistics:
            teacher.train()
            for module in teacher.modules():
                if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                    module.momentum = 0.0  # the released code lets them drift, which the forward pass never sees

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        pooled = {name: _pool(maps) for name, maps in student.taps.items()}
        models = [_pool(teacher.taps[name]) for name in self.teacher_taps]
        if self.compressing and self.step >= self.reset_step:
            self.gradient_reset([pooled[name].detach() for name in self.after], models)
        return {
            "kl": self.kl_weight * kl_divergence(student.logits, teacher.logits, self.temperature),
            "feature": self.feature_weight * feature_distance([pooled[name] for name in self.before], models),
        }

    def after_backward(self, student: Embedder) -> None:
        if self.compressing:
            # A step's length: closer to zero than this, the full pull of the lasso would carry a row across.
            reach = self.plan.learning_rates[self.step] * self.strength / (1 - self.plan.momentum)
            masks = self.gradient_reset.masks if self.step >= self.reset_step else None
            edit_gradients(
                [block.compactor.weight for block in compactable_blocks(student)],
                masks,
                self.strength,
                max(reach, 1e-12),
            )
        self.step += 1

    def after_epoch(self, student: Embedder, progress: Progress) -> list[Kept]:
        return self._remove_rows(student) if self.dynamic else []

    def structure(self) -> dict[str, Any]:
        return {"widths": [len(mask) for mask in self.gradient_reset.masks]}

    def restore(self, student: Embedder, structure: dict[str, Any]) -> None:
        # Which rows were kept is in the checkpoint's weights and buffers; here only the shapes must fit.
        for i, (block, width) in enumerate(zip(compactable_blocks(student), structure["widths"], strict=True)):
            if width < block.compactor.out_channels:
                rows = torch.arange(width)
                block.keep(rows)
                self.gradient_reset.keep(i, rows)

    def report(self, student: Embedder) -> dict[str, float]:
        widths = [block.compactor.out_channels for block in compactable_blocks(student)]
        size = self._size(student, widths)
        masked = sum(float((mask == 0).sum()) for mask in self.gradient_reset.masks)
        return {"channels": sum(widths), "masked": masked, "parameters": size.parameters, "macs": size.macs}

    def smallest(self, student: Embedder) -> Embedder:
        return self._merged(student, [1] * len(self.after))

    def compact(self, student: Embedder) -> Embedder:
        self._remove_rows(student)
        for block in compactable_blocks(student):
            block.merge()
        return student

    def get_extra_state(self) -> Tensor:
        """Where training stands; a tensor, because checkpoints hold nothing else."""
        return torch.tensor([self.step, int(self.compressing)])

    def set_extra_state(self, state: Tensor) -> None:
        self.step, self.compressing = int(state[0]), bool(state[1])

    def _remove_rows(self, student: Embedder) -> list[Kept]:
        """Remove rows below the threshold, smallest first, and no more than the budget asks for."""
        if not self.compressing:
            return []
        blocks = compactable_blocks(student)
        norms = [torch.linalg.vector_norm(block.compactor.weight.detach().flatten(1), dim=1).cpu() for block in blocks]
        candidates = sorted(
            (float(norm), i, row)
            for i, block_norms in enumerate(norms)
            for row, norm in enumerate(block_norms)
            # At least the largest row of a block stays; where several are the largest, all of them.
            if norm < self.threshold and norm < block_norms.max()
        )
        candidates = candidates[: self._affordable(student, blocks, [i for _, i, _ in candidates])]
        changes: list[Kept] = []
        for i, block in enumerate(blocks):
            gone = {row for _, j, row in candidates if j == i}
            if gone:
                rows = torch.tensor([row for row in range(len(norms[i])) if row not in gone])
                changes += block.keep(rows)
                self.gradient_reset.keep(i, rows)
        return changes

    def _affordable(self, student: Embedder, blocks: Sequence[CompactableBlock], order: Sequence[int]) -> int:
        """How many rows may go, in this order of their blocks, until the budget is met; then compression ends."""
        budget = self.budget
        if budget is None:
            return len(order)
        widths = [block.compactor.out_channels for block in blocks]
        allowed = budget.target * budget.of(self.teacher_size)

        def met(rows: int) -> bool:
            left = [width - order[:rows].count(i) for i, width in enumerate(widths)]
            return budget.of(self._size(student, left)) <= allowed

        if not met(len(order)):
            return len(order)
        self.compressing = False
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if met(middle) else (middle + 1, high)
        return low

    def _size(self, student: Embedder, widths: Sequence[int]) -> Size:
        """Cost of the deployed network if the compactors had these many rows."""
        merged = self._merged(student, widths)
        return count(fold_batchnorm(merged, _example(merged)), self.plan.image_size)

    def _merged(self, student: Embedder, widths: Sequence[int]) -> Embedder:
        smaller = copy.deepcopy(student).eval()
        for block, width in zip(compactable_blocks(smaller), widths, strict=True):
            block.keep(torch.arange(width))
            block.merge()
        return smaller

    @staticmethod
    def _expect_alike(student: Sequence[CompactableBlock], teacher: Sequence[CompactableBlock]) -> None:
        widths = [[(block.name, block.norm.num_features) for block in blocks] for blocks in (student, teacher)]
        if widths[0] != widths[1]:
            raise UserError(
                "cdd's student starts as large as its teacher, block by block: leave `student` as `{like: teacher}`, "
                "or give both the same backbone and args"
            )


def _budget(macs: float | None, parameters: float | None) -> Budget | None:
    if macs is not None:
        return Budget("macs", macs)
    return None if parameters is None else Budget("parameters", parameters)


def _pool(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C), averaged in float32."""
    return maps.mean((2, 3), dtype=torch.float32)


def _example(network: Embedder) -> Tensor:
    """The smallest input that passes through any ResNet; only shapes matter."""
    return torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device=next(network.parameters()).device)
