"""The terms of CLIP-KD, for embeddings of images."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark import METHODS, Batch, Embedder, Features, Method, Plan, Range, RecipePlan, UserError
from benchmark.losses import kl_divergence, l2_normalize
from benchmark.utils.precision import full_precision, upcast

Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Pair = tuple[Tensor, Tensor]
"""(B, D) rows of unit length of two sides, such as images and texts, or two views of the images."""
LOG_SCALE = math.log(1 / 0.07)
"""Initial value of the logarithm of CLIP's scale of cosines."""


@METHODS.register_module("clip_kd")
class CLIPKD(Method):
    """CLIP-KD: match the teacher's embeddings, contrast with them, and match relations in the batch; each by weight.

    Yang, An, Huang, Bi, Yu, Yang, Diao, Xu: CLIP-KD: An Empirical Study of CLIP Model Distillation. CVPR 2024.

    Equation: the sum of weight * term over these terms,

        feature:      2 * mean (s - t)^2
        interactive:  C(c s t^T)
        relation:     KL(a_t t t^T, a_s s' s'^T)
        cross:        KL(a_t t t^T, c s t^T)
        gradient:     2 * [mean (P_s s - P_t t)^2 + mean (P_s^T s - P_t^T t)^2]
        fusion:       C(c h h^T),  h = n(W [s, t] + w)

        C(Z) = -1 / B * sum_i log softmax(Z[i])_i
        KL(T, Z) = 1 / B * sum_i KL(softmax(T[i]) || softmax(Z[i]))
        P = (softmax(f f^T / a) - I) / (a B), with f = s and a = a_s, or f = t and a = a_t

    where n is L2 normalization, t = n(y) and s' = n(x) for the embeddings y of the teacher and x of the student, and s
    is s' if embedding sizes are equal, else n(V x + v). V, v, W, w and c are learned, and a_s and a_t are constant.

    Implementation: follows the authors' code, which contrasts images with texts. Batches here have one side, so both
    sides are the images of the batch, and other images of an identity count as negatives in `interactive` and `fusion`.
    As in the code, c multiplies cosines without an exponential, although it starts at the logarithm of a scale, and
    `gradient` divides by the scale that multiplies the cosines of the other terms. `fusion` needs equal embedding
    sizes. With `feature` or `interactive` and equal sizes, the student is trained into the teacher's embedding space.

    Defaults: weights are the authors'; they recommend `feature`, `interactive` and `relation`, and train `gradient`
    with a weight of 1e8. Their scripts have no weights of `cross` and `fusion`. The scales are CLIP's initial 1 / 0.07.

    Args:
        feature_weight: Weight of the squared differences to the teacher's embeddings.
        interactive_weight: Weight of the contrastive term of student against teacher.
        relation_weight: Weight of the divergence of relations within each space.
        cross_weight: Weight of the divergence of relations across both spaces.
        gradient_weight: Weight of the squared differences of the contrastive loss's gradients.
        fusion_weight: Weight of the contrastive term of fused embeddings.
        student_scale: Factor a_s of the student's cosines.
        teacher_scale: Factor a_t of the teacher's cosines.
    """

    kind: ClassVar[str] = "embeddings"
    search: ClassVar[Mapping[str, Range]] = {
        "feature_weight": Range(200, 20000),
        "interactive_weight": Range(0.1, 10),
        "relation_weight": Range(0.1, 10),
    }

    def __init__(
        self,
        feature_weight: Weight = 2000.0,
        interactive_weight: Weight = 1.0,
        relation_weight: Weight = 1.0,
        cross_weight: Weight = 0.0,
        gradient_weight: Weight = 0.0,
        fusion_weight: Weight = 0.0,
        student_scale: Positive = 1 / 0.07,
        teacher_scale: Positive = 1 / 0.07,
    ) -> None:
        super().__init__()
        self.feature_weight, self.interactive_weight = feature_weight, interactive_weight
        self.relation_weight, self.cross_weight = relation_weight, cross_weight
        self.gradient_weight, self.fusion_weight = gradient_weight, fusion_weight
        self.student_scale, self.teacher_scale = student_scale, teacher_scale
        self.aligned = feature_weight + interactive_weight > 0

    def check(self, student: Embedder, teacher: Embedder, plan: RecipePlan) -> None:
        if self.fusion_weight and student.dim != teacher.dim:
            raise UserError(
                f"method.fusion_weight: {self.fusion_weight:g} needs embeddings of equal size, not {student.dim} of "
                f"the student and {teacher.dim} of the teacher; set it to 0, or student.dim to {teacher.dim}"
            )

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        equal = student.dim == teacher.dim
        self.project = nn.Identity() if equal else nn.Linear(student.dim, teacher.dim)
        self.aligned = self.aligned and equal
        if self.fusion_weight:
            self.fusion = nn.Linear(2 * teacher.dim, teacher.dim)
        if self.interactive_weight or self.cross_weight or self.fusion_weight:
            self.cross_scale = nn.Parameter(torch.tensor(LOG_SCALE))

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        x, t = upcast(student.embedding), l2_normalize(teacher.embedding)
        terms = {}
        with full_precision(x.device):
            own, s = l2_normalize(x), l2_normalize(self.project(x))
            if self.feature_weight:
                terms["feature"] = self.feature_weight * feature_term((s, s), (t, t))
            if self.interactive_weight:
                terms["interactive"] = self.interactive_weight * interactive_term((s, s), (t, t), self.cross_scale)
            if self.relation_weight or self.cross_weight:
                target = self.teacher_scale * t @ t.T
            if self.relation_weight:
                terms["relation"] = self.relation_weight * relation_term(self.student_scale * own @ own.T, target)
            if self.cross_weight:
                terms["cross"] = self.cross_weight * cross_term((s, s), (t, t), target, self.cross_scale)
            if self.gradient_weight:
                scales = self.student_scale, self.teacher_scale
                terms["gradient"] = self.gradient_weight * gradient_term((s, s), (t, t), *scales)
            if self.fusion_weight:
                fused = fuse(s, t, self.fusion)
                terms["fusion"] = self.fusion_weight * symmetric_contrastive(self.cross_scale * fused @ fused.T)
        return {f"clip_kd_{name}": term for name, term in terms.items()}


def contrastive(logits: Tensor) -> Tensor:
    """Compute -1 / B * sum_i log softmax(logits[i])_i of (B, B) logits."""
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def symmetric_contrastive(logits: Tensor) -> Tensor:
    """Compute the mean of `contrastive` over rows and over columns."""
    return (contrastive(logits) + contrastive(logits.T)) / 2


def feature_term(student: Pair, teacher: Pair) -> Tensor:
    """Compute the mean squared difference of all values, added up over both sides."""
    return F.mse_loss(student[0], teacher[0]) + F.mse_loss(student[1], teacher[1])


def interactive_term(student: Pair, teacher: Pair, scale: Tensor | float) -> Tensor:
    """Compute the contrastive loss of each side of the student against the other side of the teacher."""
    return (contrastive(scale * student[0] @ teacher[1].T) + contrastive(scale * student[1] @ teacher[0].T)) / 2


def relation_term(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Compute the mean divergence of the rows and of the columns of (B, B) logits."""
    rows = kl_divergence(student_logits, teacher_logits, 1.0)
    return (rows + kl_divergence(student_logits.T, teacher_logits.T, 1.0)) / 2


def cross_term(student: Pair, teacher: Pair, teacher_logits: Tensor, scale: Tensor | float) -> Tensor:
    """Compute the divergence of the student's relations to the teacher's rows from the teacher's, over both sides."""
    rows = kl_divergence(scale * student[0] @ teacher[1].T, teacher_logits, 1.0)
    return (rows + kl_divergence(scale * student[1] @ teacher[0].T, teacher_logits.T, 1.0)) / 2


def gradient_term(student: Pair, teacher: Pair, student_scale: float, teacher_scale: float) -> Tensor:
    """Compute the mean squared differences of the gradients of the contrastive loss, added up over sides and rows."""
    differences = [
        F.mse_loss(s, t)
        for sides in ((0, 1), (1, 0))
        for s, t in zip(
            contrastive_gradients(student[sides[0]], student[sides[1]], student_scale),
            contrastive_gradients(teacher[sides[0]], teacher[sides[1]], teacher_scale),
            strict=True,
        )
    ]
    return torch.stack(differences).sum()


def contrastive_gradients(rows: Tensor, others: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Compute the gradients of `contrastive(rows @ others.T / scale)` by `rows` and by `others`, both (B, D)."""
    errors = torch.softmax(rows @ others.T / scale, dim=1) - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    return errors @ others / (scale * len(rows)), errors.T @ rows / (scale * len(rows))


def fuse(student: Tensor, teacher: Tensor, layer: nn.Module) -> Tensor:
    """Map the concatenated rows of both networks to (B, D) rows of unit length."""
    return l2_normalize(layer(torch.cat([student, teacher], dim=1)))
