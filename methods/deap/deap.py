"""DEAP: distillation embedded absorbable pruning."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Embedder, Features, Needs, Plan, Range, RecipePlan
from benchmark.compression.compactor import CompactorSite, row_sites
from benchmark.compression.compactor_method import CompactorMethod
from benchmark.compression.compression_method import budget_from
from benchmark.compression.lasso import check_lasso, lasso_strength
from benchmark.losses import feature_distance, global_avg_pool, kl_divergence
from benchmark.methods.mkd import MKD

from .column_site import ColumnSite

Fraction = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


@METHODS.register_module("deap")
class DEAP(CompactorMethod):
    """DEAP: prune channels with a group lasso on 1x1 convolutions around a convolution, while distilling.

    Xie et al.: Distillation Embedded Absorbable Pruning for Fast Object Re-identification. Pattern Recognition 152,
    2024.

    The student has the teacher's architecture. Two pruners P1 and P2, 1x1 convolutions that start as the identity,
    surround the second convolution of every bottleneck: P1 behind the activation before it, P2 behind the batch norm
    after it. Columns of P1 stand for channels of the first convolution, rows of P2 for channels of the second. Columns
    and rows with a norm below `threshold` are removed. At the end, pruners and batch norms are folded into the
    convolutions.

    Equation: in addition to the task loss,

        kl_weight * T^2 KL(softmax(z_t / T) || softmax(z_s / T))
        + feature_weight * sum_blocks mean_b || GAP(t) - GAP(s) ||_2
        + mkd_weight * MKD
        + lambda * sum_blocks (sum_columns || P1_column ||_2 + sum_rows || P2_row ||_2)

    where z are the logits of teacher and student, t and s are the sums of residual and shortcut before the last
    activation of each block, GAP is global average pooling, and MKD is the method `mkd` on stages 3 and 4. The norm of
    the feature distance is not squared. The lasso acts at every step, and no gradient is reset.

    Implementation: the lasso is added to the gradient, which equals adding it to the loss. Its gradient shrinks within
    one step's length of zero, so that a column comes to rest there. The available sources do not state on which side of
    the second batch norm P2 is. Here it is behind it, as in the authors' CDD, so that a channel is zero if its row is.
    Basic blocks, and bottlenecks whose second convolution is grouped, have a single pruner in the place of CDD's
    compactor.

    Defaults: weights, temperature, threshold and stages are those of the authors' code for VeRi-776 (90 epochs, images
    of 256 x 256, margin 0.3). Its lambda is 0.003 for both pruners, and it removes channels once, at the end: the
    preset `published`. By default, lambda follows from the schedule, because a constant ties compression to the number
    of steps, and channels are removed during training (`dynamic`). Compression ends when a budget, if any, is met.

    Args:
        kl_weight: Weight of the KL term.
        temperature: Temperature T of the KL term.
        feature_weight: Weight of the feature distance.
        mkd_weight: Weight of the terms of MKD, which have the default weights of `mkd`.
        lasso: lambda, or `auto` for the value at which a column without any other gradient has vanished at `vanish_at`.
        vanish_at: Share of the training, see `lasso`. With CDD's schedule and batch size on VeRi-776, the published
            lambda of 0.003 results in 0.14.
        threshold: Columns and rows with a smaller norm are removed. Their gradients are not reset, so they hover around
            zero, at a distance that grows with the learning rate: at 20 times the published 0.01, few are removed
            before it has decayed.
        dynamic: Remove columns and rows during training.
        target_macs: Stop compressing when the student has this fraction of the teacher's MACs.
        target_params: Stop compressing when the student has this fraction of the teacher's parameters.
    """

    needs = Needs(classifier=True, same_backbone=True)
    search: ClassVar[Mapping[str, Range]] = {
        "temperature": Range(1, 8),
        "kl_weight": Range(0.1, 10),
        "feature_weight": Range(0.05, 5),
        "mkd_weight": Range(0.1, 10),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": {"lasso": 0.003, "dynamic": False}}

    def __init__(
        self,
        kl_weight: Weight = 1.0,
        temperature: Annotated[float, Field(gt=0)] = 2.0,
        feature_weight: Weight = 0.5,
        mkd_weight: Weight = 1.0,
        lasso: Weight | Literal["auto"] = "auto",
        vanish_at: Fraction = 0.14,
        threshold: Annotated[float, Field(gt=0)] = 1e-3,
        dynamic: bool = True,
        target_macs: Fraction | None = None,
        target_params: Fraction | None = None,
    ) -> None:
        super().__init__(threshold, dynamic, budget_from(self.name, target_macs, target_params))
        self.kl_weight, self.temperature = kl_weight, temperature
        self.feature_weight, self.mkd_weight = feature_weight, mkd_weight
        self.lasso, self.vanish_at = lasso, vanish_at
        self.mkd = MKD()
        self.student_taps = self.teacher_taps = self.mkd.student_taps

    def sites(self, network: Embedder) -> list[CompactorSite]:
        sites: list[CompactorSite] = []
        for row_site in row_sites(network):
            if row_site.conv_name == "conv2" and row_site.conv.groups == 1 and hasattr(row_site.block, "act1"):
                # a bottleneck of a ResNet
                sites.append(ColumnSite(row_site.block_name, row_site.block, "conv1", "bn1", "conv2"))
            sites.append(row_site)
        return sites

    def check(self, student: Embedder, teacher: Embedder | None, plan: RecipePlan) -> None:
        super().check(student, teacher, plan)
        check_lasso(self.name, self.lasso, plan.optimizer)

    def prepare(self, student: Embedder, teacher: Embedder | None, plan: Plan) -> None:
        super().prepare(student, teacher, plan)
        self.strength = lasso_strength(
            self.name, self.lasso, plan, start=0, vanish_at=self.vanish_at, threshold=self.threshold
        )
        self.residual_sums = [f"{site.block_name}:pre" for site in row_sites(student)]
        self.student_taps = self.teacher_taps = [*self.mkd.student_taps, *self.residual_sums]

    def lasso_floor(self) -> float:
        # No gradient is reset here. Where the lasso's gradient shrinks, the gradient of the loss balances it, and
        # columns remain. Without the factor of momentum, 1 / (1 - mu), columns oscillate around zero a few times and
        # come to rest ten times as close to it (at momentum 0.9).
        return super().lasso_floor() * (1 - self.plan.momentum)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        s, t = (
            [global_avg_pool(features.taps[name]) for name in self.residual_sums] for features in (student, teacher)
        )
        return {
            "deap_kl": self.kl_weight * kl_divergence(student.logits, teacher.logits, self.temperature),
            "deap_feature": self.feature_weight * feature_distance(s, t),
        } | {f"deap_{name}": self.mkd_weight * term for name, term in self.mkd.loss(student, teacher, batch).items()}
