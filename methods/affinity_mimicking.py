"""Affinity mimicking of TinyCLIP."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from benchmark import METHODS, Batch, Features, Method, Range
from benchmark.losses import l2_normalize
from benchmark.utils.precision import full_precision

Positive = Annotated[float, Field(gt=0)]
Pair = tuple[Tensor, Tensor]
"""(B, D) rows of two sides, such as images and texts, or two views of the images."""


@METHODS.register_module("affinity_mimicking")
class AffinityMimicking(Method):
    """Affinity mimicking: match each image's scaled cosines to the batch as probabilities, by a cross-entropy.

    Wu et al.: TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance. ICCV 2023.

    Equation:

        weight / 2 * [CE(P(T), P(S)) + CE(P(T^T), P(S^T))]

        S[i, j] = a_s * cos(s_i, s_j),  T[i, j] = a_t * cos(t_i, t_j)
        CE(p, q) = -1 / B * sum_ij p[i, j] * log(q[i, j])

    where s and t are the embeddings of student and teacher for the B images in the batch, P is the softmax of each row,
    and ^T transposes. Embedding sizes may differ.

    Implementation: follows the authors' code, in which rows are images and columns are texts. Batches here have one
    side, so rows and columns are the images of the batch. S and T are then symmetric, and both cross-entropies are
    equal. As in the code, the diagonal is included. The entropy of the teacher's probabilities is not subtracted: the
    loss of a student equal to its teacher is not 0, and its gradient is.

    Defaults: the scales 50 and the weight 1 are the authors', for batches of 8192 image-text pairs. With images on both
    sides, an image's cosine with itself is always 1, so that a large scale leaves little probability for other images.

    Args:
        student_scale: Factor a_s of the student's cosines.
        teacher_scale: Factor a_t of the teacher's cosines.
        weight: Weight of the loss term.
    """

    kind: ClassVar[str] = "sample relations"
    search: ClassVar[Mapping[str, Range]] = {
        "weight": Range(0.1, 10),
        "student_scale": Range(5, 100),
        "teacher_scale": Range(5, 100),
    }

    def __init__(
        self,
        student_scale: Positive = 50.0,
        teacher_scale: Positive = 50.0,
        weight: Annotated[float, Field(ge=0)] = 1.0,
    ) -> None:
        super().__init__()
        self.student_scale, self.teacher_scale, self.weight = student_scale, teacher_scale, weight

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        s, t = l2_normalize(student.embedding), l2_normalize(teacher.embedding)
        affinity = affinity_cross_entropy((s, s), (t, t), self.student_scale, self.teacher_scale)
        return {"affinity_mimicking": self.weight * affinity}


def affinity_cross_entropy(student: Pair, teacher: Pair, student_scale: float, teacher_scale: float) -> Tensor:
    """Compute the unweighted loss of `AffinityMimicking` for rows of unit length."""
    with full_precision(student[0].device):
        s = student_scale * student[0] @ student[1].T
        t = teacher_scale * teacher[0] @ teacher[1].T
    directions = (F.cross_entropy(s, torch.softmax(t, dim=1)), F.cross_entropy(s.T, torch.softmax(t.T, dim=1)))
    return (directions[0] + directions[1]) / 2
