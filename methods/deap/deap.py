"""DEAP: distillation embedded absorbable pruning."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from timm.models.resnet import Bottleneck
from torch import Tensor

from benchmark.compression.compactor import Compactable, compactable_blocks
from benchmark.compression.compactor_method import CompactorMethod
from benchmark.compression.compression_method import budget_from
from benchmark.compression.lasso import lasso_strength, require_derivable
from benchmark.data.batch import Batch
from benchmark.losses import feature_distance, global_avg_pool, kl_divergence
from benchmark.method import Needs, Plan, RecipePlan
from benchmark.methods.mkd import MKD
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.registry import METHODS

from .compactable_columns import CompactableColumns

Share = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


@METHODS.register_module("deap")
class DEAP(CompactorMethod):
    """DEAP: pruners around a convolution are thinned by a lasso, beside distillation.

    Xie et al.: Distillation Embedded Absorbable Pruning for Fast Object Re-identification. Pattern Recognition
    152, 2024.

    1x1 convolutions that start as the identity, the pruners P, stand around the second convolution of every bottleneck:
    P1 behind the activation before it, P2 behind its batch-norm. Equation, beside the task's loss:

        kl_weight * T^2 KL(teacher logits || student logits)
        + feature_weight * sum_blocks mean_b || GAP(t) - GAP(s) ||_2      of the residual sums before the activation
        + mkd_weight * MKD                                               of stages 3 and 4, see `mkd`
        + lambda * sum_blocks (sum_columns || P1_column ||_2 + sum_rows || P2_row ||_2)

    The lasso acts at every step and no gradient is reset. Columns of P1 stand for channels of the first convolution,
    rows of P2 for channels of the second; those below `threshold` are removed. At the end P1, P2 and the batch-norms
    are folded into the convolutions.

    Weights, temperature, threshold and stages are those of the authors' code for VeRi-776 (90 epochs, images of
    256 x 256, margin 0.3). Its lambda is 0.003 for both pruners: the preset `published`, which removes channels once,
    at the end. By default lambda follows from the schedule, since a constant ties compression to the number of steps,
    and channels are removed during training (`dynamic`), until a budget, if any, is met: compression then ends. The
    lasso is added to the gradient, which equals adding it to the loss; its pull weakens within one step's length of
    zero, so that a column comes to rest there. Which side of the second batch-norm P2 is on is not told by what was at
    hand: here behind it, as in the authors' CDD, where a vanished row is a channel that is zero. Basic blocks, and
    bottlenecks whose second convolution is grouped, get the pruner alone that CDD gives them.

    Args:
        kl_weight: Weight of the KL term.
        temperature: T of the KL term.
        feature_weight: Weight of the feature distance.
        mkd_weight: Weight of MKD's terms, whose own weights are its defaults.
        lasso: lambda, or `auto` for the value by which a column that feels nothing else has vanished at `vanish_at`.
        vanish_at: Share of the training (0.14: what 0.003 gives on VeRi-776 by CDD's schedule and batches).
        threshold: Columns and rows with a smaller norm are removed. No gradient being reset, they hover about zero the
            further the higher the learning rate: at 20 times the published 0.01, few go before it has decayed.
        dynamic: Remove them during training.
        target_macs: Stop compressing when the student's MACs are this fraction of the teacher's.
        target_params: The same for parameters.
    """

    needs = Needs(classifier=True, same_backbone=True)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"published": {"lasso": 0.003, "dynamic": False}}

    def __init__(
        self,
        kl_weight: Weight = 1.0,
        temperature: Annotated[float, Field(gt=0)] = 2.0,
        feature_weight: Weight = 0.5,
        mkd_weight: Weight = 1.0,
        lasso: Weight | Literal["auto"] = "auto",
        vanish_at: Share = 0.14,
        threshold: Annotated[float, Field(gt=0)] = 1e-3,
        dynamic: bool = True,
        target_macs: Share | None = None,
        target_params: Share | None = None,
    ) -> None:
        super().__init__(threshold, dynamic, budget_from("deap", target_macs, target_params))
        self.kl_weight, self.temperature = kl_weight, temperature
        self.feature_weight, self.mkd_weight = feature_weight, mkd_weight
        self.lasso, self.vanish_at = lasso, vanish_at
        self.mkd = MKD()
        self.student_taps = self.teacher_taps = self.mkd.student_taps

    def places(self, network: Embedder) -> list[Compactable]:
        places: list[Compactable] = []
        for block in compactable_blocks(network):
            if isinstance(block.block, Bottleneck) and block.block.conv2.groups == 1:
                places.append(CompactableColumns(block.name, block.block))
            places.append(block)
        return places

    def check(self, student: Embedder, teacher: Embedder | None, plan: RecipePlan) -> None:
        super().check(student, teacher, plan)
        require_derivable("deap", self.lasso, plan.optimizer)

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        self.insert(student, teacher, plan)
        self.strength = lasso_strength("deap", self.lasso, plan, 0, self.vanish_at)
        self.sums = [f"{block.name}:pre" for block in compactable_blocks(student)]
        self.student_taps = self.teacher_taps = [*self.mkd.student_taps, *self.sums]

    def reach(self) -> float:
        # No gradient is reset here: where the pull weakens, the objective's balances it, and columns stay. Without the
        # share of momentum, they swing about zero a few times, and come to rest ten times as near (at momentum 0.9).
        return super().reach() * (1 - self.plan.momentum)

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        s, t = ([global_avg_pool(taps[name]) for name in self.sums] for taps in (student.taps, teacher.taps))
        return {
            "deap_kl": self.kl_weight * kl_divergence(student.logits, teacher.logits, self.temperature),
            "deap_feature": self.feature_weight * feature_distance(s, t),
        } | {f"deap_{name}": self.mkd_weight * term for name, term in self.mkd.loss(student, teacher, batch).items()}
