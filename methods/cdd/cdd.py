"""Capacity dynamic distillation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from benchmark.compression.compactor_method import CompactorMethod
from benchmark.compression.compression_method import budget_from
from benchmark.compression.lasso import lasso_strength, require_derivable
from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.losses import feature_distance, global_avg_pool, kl_divergence
from benchmark.method import Needs, Plan, RecipePlan
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.registry import METHODS

from .gradient_reset import GradientReset

Fraction = Annotated[float, Field(gt=0, le=1)]


@METHODS.register_module("cdd")
class CDD(CompactorMethod):
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

    needs = Needs(classifier=True, same_backbone=True)
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
        super().__init__(threshold, dynamic, budget_from("cdd", target_macs, target_params))
        if lasso == "auto" and not vanish_at > reset_from:
            raise UserError(f"cdd: vanish_at ({vanish_at}) must come after reset_from ({reset_from})")
        self.temperature, self.kl_weight, self.feature_weight = temperature, kl_weight, feature_weight
        self.lasso, self.reset_from, self.vanish_at = lasso, reset_from, vanish_at
        self.neighbours, self.ratio, self.ratio_of = neighbours, ratio, ratio_of
        self.recompute, self.queue = recompute, queue
        self.teacher_batch_statistics = teacher_batch_statistics

    def check(self, student: Embedder, teacher: Embedder | None, plan: RecipePlan) -> None:
        super().check(student, teacher, plan)
        require_derivable("cdd", self.lasso, plan.optimizer)
        if self.neighbours > plan.batch_size or self.queue < plan.batch_size:
            raise UserError(
                f"cdd: with batches of {plan.batch_size}, neighbours ({self.neighbours}) may be no more and queue "
                f"({self.queue}) no less than that"
            )

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        self.insert(student, teacher, plan)
        self.after = [place.where for place in self.places(student)]
        self.before = [f"{name}.norm" for name in self.after]
        self.student_taps = [*self.before, *self.after]
        self.teacher_taps = self.after
        self.gradient_reset = GradientReset(
            self.widths,
            min(self.queue, max(plan.images, plan.batch_size)),
            self.neighbours,
            self.ratio,
            self.recompute,
            ratio_of=self.ratio_of,
        )
        self.reset_step = round(self.reset_from * plan.steps)
        self.strength = lasso_strength("cdd", self.lasso, plan, self.reset_from, self.vanish_at)
        if self.teacher_batch_statistics:
            teacher.train()
            for module in teacher.modules():
                if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                    module.momentum = 0.0  # the released code lets them drift, which the forward pass never sees

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        pooled = {name: global_avg_pool(maps) for name, maps in student.taps.items()}
        models = [global_avg_pool(teacher.taps[name]) for name in self.teacher_taps]
        if self.compressing and self.step >= self.reset_step:
            self.gradient_reset([pooled[name].detach() for name in self.after], models)
        return {
            "kl": self.kl_weight * kl_divergence(student.logits, teacher.logits, self.temperature),
            "feature": self.feature_weight * feature_distance([pooled[name] for name in self.before], models),
        }

    @property
    def masks(self) -> list[Tensor]:
        return self.gradient_reset.masks

    def kept(self, place: int, index: Tensor) -> None:
        self.gradient_reset.keep(place, index)
