"""Capacity dynamic distillation."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark import METHODS, Batch, Embedder, Features, Needs, Plan, Range, RecipePlan, UserError
from benchmark.compression.compactor import RowSite, row_sites
from benchmark.compression.compactor_method import CompactorMethod
from benchmark.compression.compression_method import budget_from
from benchmark.compression.lasso import check_lasso, lasso_strength
from benchmark.losses import feature_distance, global_avg_pool, kl_divergence
from benchmark.utils.distributed import gathered

from .gradient_reset import GradientReset, least_width

Fraction = Annotated[float, Field(gt=0, le=1)]


@METHODS.register_module("cdd")
class CDD(CompactorMethod):
    """Capacity dynamic distillation: during training, compress a student that starts as large as its teacher.

    Xie, Zhang, Xu, Zhu, He. Towards a Smaller Student: Capacity Dynamic Distillation for Efficient Image Retrieval.
    CVPR 2023.

    The student has the teacher's architecture and its own initial weights, pretrained or random. Every residual block
    gets a compactor: a 1x1 convolution C, initialized as the identity. Each row of C belongs to a channel of the block.
    Training moves unimportant rows to zero, and these rows are removed. At the end, batch norm and compactor are folded
    into the convolution before them, so that a plain, narrower network remains.

    Equation: in addition to the task loss,

        kl_weight * T^2 KL(softmax(z_t / T) || softmax(z_s / T))
        + feature_weight * sum_blocks mean_b || GAP(t) - GAP(s) ||_2
        + lambda * sum_blocks sum_rows || C_row ||_2

    where z are the logits of teacher and student, t and s are their feature maps after the batch norm of each block,
    before the compactor, and GAP is global average pooling. The norm of the feature distance is not squared.

    Gradient resetting: after the fraction `reset_from` of the training, the gradient of all terms but the lasso is set
    to zero for rows that are unimportant for all images of a batch and their nearest neighbors in the teacher's feature
    space (see `GradientReset`). The lasso then moves these rows to zero. Rows with a norm below `threshold`
    are removed at the end of every epoch (`dynamic`), or once after training.

    Implementation: the differences from the released code are as follows. The preset `released` restores the released
    behavior for the first three.

    - lambda follows from the schedule (`lasso: auto`); 0.004 is the released constant for MSMT17.
    - Rows are removed during training (`dynamic`), not once after it.
    - The teacher is in eval mode (`teacher_batch_statistics`).
    - The gradient of the lasso shrinks when a row is less than one step from zero. The row then converges to zero at a
      high learning rate, instead of oscillating around it.
    - The lasso is added to the gradient in every phase, which equals adding it to the loss.
    - The queues of teacher features keep the teacher's width when the student narrows, because they are searched with
      teacher features.

    Args:
        temperature: Temperature T of the KL term.
        kl_weight: Weight of the KL term.
        feature_weight: Weight of the feature distance.
        lasso: lambda. `auto` chooses the value with which a row that is masked from the start of resetting reaches
            `threshold` at the fraction `vanish_at` of the training.
        reset_from: Fraction of the training after which resetting begins (released: 20 of 120 epochs).
        vanish_at: Fraction of the training after which the first masked rows have reached `threshold` (released: about
            27 of 120 epochs).
        neighbours: Number of teacher neighbors of an image, including the image itself.
        ratio: Fraction of the channels that each list of unimportant channels contains.
        ratio_of: Whether `ratio` refers to the initial or the current width of a block; see `GradientReset`.
        recompute: Recompute the masks at every step instead of accumulating them.
        queue: Number of teacher features stored for each block; at most the number of training images.
        threshold: Rows with a smaller norm are removed.
        dynamic: Remove rows during training.
        teacher_batch_statistics: Normalize the teacher's features with batch statistics, as the released code does.
        target_macs: Stop compressing when the student has this fraction of the teacher's MACs.
        target_params: Stop compressing when the student has this fraction of the teacher's parameters.
        fixed_widths: Number of rows of every compactor from the start, such as those that an earlier run has found. The
            student is then trained by the same losses without being compressed.
    """

    needs = Needs(classifier=True, same_backbone=True, teacher_network=True)
    maps_per_image = True
    search: ClassVar[Mapping[str, Range]] = {
        "temperature": Range(1, 8),
        "kl_weight": Range(0.1, 10),
        "feature_weight": Range(0.05, 5),
    }
    # With half of the initial channels in every list, compression ends above most budgets. These lists are long enough
    # for every budget: of a narrow block, they contain all channels but one.
    budget_arguments: ClassVar[Mapping[str, Any]] = {"ratio": 0.97, "ratio_of": "current"}
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
        neighbours: Annotated[int, Field(ge=1)] = 2,  # spelled as in saved recipes, whose hash depends on it
        ratio: Fraction = 0.5,
        ratio_of: Literal["initial", "current"] = "initial",
        recompute: bool = False,
        queue: Annotated[int, Field(ge=1)] = 24_000,
        threshold: Annotated[float, Field(gt=0)] = 1e-5,
        dynamic: bool = True,
        teacher_batch_statistics: bool = False,
        target_macs: Fraction | None = None,
        target_params: Fraction | None = None,
        fixed_widths: tuple[Annotated[int, Field(ge=1)], ...] = (),
    ) -> None:
        super().__init__(threshold, dynamic, budget_from(self.name, target_macs, target_params), fixed_widths)
        if lasso == "auto" and not vanish_at > reset_from:
            raise UserError(f"{self.name}: vanish_at ({vanish_at}) must be greater than reset_from ({reset_from})")
        self.temperature, self.kl_weight, self.feature_weight = temperature, kl_weight, feature_weight
        self.lasso, self.reset_from, self.vanish_at = lasso, reset_from, vanish_at
        self.neighbours, self.ratio, self.ratio_of = neighbours, ratio, ratio_of
        self.recompute, self.queue = recompute, queue
        self.teacher_batch_statistics = teacher_batch_statistics

    def sites(self, network: Embedder) -> list[RowSite]:
        return row_sites(network)

    def check(self, student: Embedder, teacher: Embedder | None, plan: RecipePlan) -> None:
        super().check(student, teacher, plan)
        check_lasso(self.name, self.lasso, plan.optimizer)
        if self.neighbours > plan.batch_size:
            raise UserError(
                f"{self.name}: neighbours ({self.neighbours}) must not exceed the batch size ({plan.batch_size})"
            )
        if self.queue < plan.batch_size:
            raise UserError(f"{self.name}: queue ({self.queue}) must hold at least a batch of {plan.batch_size} images")

    def prepare(self, student: Embedder, teacher: Embedder | None, plan: Plan) -> None:
        super().prepare(student, teacher, plan)
        sites = self.sites(student)
        self.before_compactor = [site.normalized for site in sites]
        self.after_compactor = [f"{site.name}.compactor" for site in sites]
        self.student_taps = [*self.before_compactor, *self.after_compactor]
        assert teacher is not None
        self.teacher_taps = [site.normalized for site in self.sites(teacher)]
        self.gradient_reset = GradientReset(
            self.widths,
            min(self.queue, max(plan.images, plan.batch_size)),
            neighbors=self.neighbours,
            ratio=self.ratio,
            ratio_of=self.ratio_of,
            recompute=self.recompute,
        )
        self.reset_step = round(self.reset_from * plan.steps)
        self.strength = lasso_strength(
            self.name, self.lasso, plan, start=self.reset_from, vanish_at=self.vanish_at, threshold=self.threshold
        )
        if self.teacher_batch_statistics:
            teacher.train()
            for module in teacher.modules():
                if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                    module.momentum = 0.0  # the released code updates running statistics that it never reads

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        pooled = {name: global_avg_pool(maps) for name, maps in student.taps.items()}
        teacher_pooled = self._pooled(teacher)
        if self.compressing and self.step >= self.reset_step:
            student_pooled = [pooled[name].detach() for name in self.after_compactor]
            images = len(batch.labels)
            self.gradient_reset(_of_batch(student_pooled, images), _of_batch(teacher_pooled, images))
        before = [pooled[name] for name in self.before_compactor]
        distance = feature_distance(before, self._of_remaining_channels(teacher_pooled, before))
        return {
            "kl": self.kl_weight * kl_divergence(student.logits, teacher.logits, self.temperature),
            "feature": self.feature_weight * distance,
        }

    def _of_remaining_channels(self, teacher: Sequence[Tensor], student: Sequence[Tensor]) -> list[Tensor]:
        """Return the teacher's pooled features, each (B, C), of the channels that the student has before compactors.

        Behind a depthwise convolution, a removed row takes its channel out of all layers.
        """
        return [
            t if t.shape[1] == s.shape[1] else t.index_select(1, self.gradient_reset.get_buffer(f"kept{i}"))
            for i, (t, s) in enumerate(zip(teacher, student, strict=True))
        ]

    def remembered_steps(self) -> int:
        return self.gradient_reset.remembered(self.plan.batch_size) if self.compressing else 0

    def remember(self, teacher: Features, batch: Batch, ago: int) -> None:
        self.gradient_reset.remember(_of_batch(self._pooled(teacher), len(batch.labels)), ago)

    def _pooled(self, teacher: Features) -> list[Tensor]:
        """Return the pooled feature maps of every block of the teacher, each (B, C)."""
        return [global_avg_pool(teacher.taps[name]) for name in self.teacher_taps]

    def reset_widths(self, widths: Sequence[int]) -> Sequence[int]:
        return [least_width(width, self.ratio, self.ratio_of) for width in widths]

    @property
    def masks(self) -> list[Tensor]:
        return self.gradient_reset.masks

    def rows_kept(self, site: int, index: Tensor) -> None:
        self.gradient_reset.keep(site, index)


def _of_batch(pooled: Sequence[Tensor], images: int) -> Sequence[Tensor]:
    """Return the pooled features of all images of a batch, also if several processes share it.

    Args:
        pooled: For each block (B, C), where B is `images` or this process's part of them.
        images: Number of images in the batch.
    """
    if len(pooled[0]) == images:
        return pooled
    return gathered(torch.cat(list(pooled), dim=1)).split([each.shape[1] for each in pooled], dim=1)
