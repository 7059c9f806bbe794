"""Asymmetric metric learning."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Needs, Range
from benchmark.losses import l2_normalize, pairwise_distance

Weight = Annotated[float, Field(ge=0)]
MIN_DISTANCE = 1e-3
"""Lower bound of distances, below which they have no gradient: sqrt(max(d^2, 1e-6)), as in the code of SSP."""


@METHODS.register_module("aml")
class AML(Method):
    """Asymmetric metric learning: contrast the student's embeddings with the teacher's of other images, and regress.

    Budnik, Avrithis: Asymmetric Metric Learning for Knowledge Transfer. arXiv 2006.16331, 2020.

    Equation:

        contrastive_weight * mean over tuples of [d_p^2 / 2 + sum_n max(margin - d_n, 0)^2 / 2]
        + regression_weight * mean_b d(s_b, t_b)

    where s and t are the L2-normalized embeddings of student and teacher and d is the Euclidean distance, of at least
    1e-3. A tuple is an image a of the batch, another image p of the same identity, and the images n of other identities
    that are nearest to a: d_p = d(s_a, t_p) and d_n = d(s_a, t_n). Anchors are embedded by the student, all others by
    the teacher.

    Implementation: the authors' code was not found. Tuples consist of the images in the batch; the paper mines them in
    a pool of the training set. `form: ssp` is the baseline in the code of SSP (MCC-WH/SSP), whose values it reproduces:
    it has no hinge, counts the positive among the images that are moved to the margin, and its term once for each of
    these.

    Defaults: margin, weights and number of negatives are the baseline's, which has no task loss. In the paper's
    abstract, regression alone is best if student queries are searched in the teacher's gallery: preset `regression`.

    Args:
        margin: Distance beyond which negatives have no gradient.
        contrastive_weight: Weight of the contrastive term.
        regression_weight: Weight of the distance to the teacher's embedding of the same image.
        negatives: Number of negatives in a tuple; all if the batch has fewer.
        form: Equation of the contrastive term: with the hinge, of the `paper`, or that in the code of `ssp`.
    """

    kind: ClassVar[str] = "embeddings"
    search: ClassVar[Mapping[str, Range]] = {
        "contrastive_weight": Range(0.1, 10),
        "regression_weight": Range(0.1, 10),
        "margin": Range(0.3, 1.4),
    }
    needs = Needs(equal_embeddings=True)
    aligned = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"regression": {"contrastive_weight": 0.0}}

    def __init__(
        self,
        margin: Annotated[float, Field(gt=0)] = 0.7,
        contrastive_weight: Weight = 1.0,
        regression_weight: Weight = 1.0,
        negatives: Annotated[int, Field(ge=1)] = 5,
        form: Literal["paper", "ssp"] = "paper",
    ) -> None:
        super().__init__()
        self.margin, self.contrastive_weight, self.regression_weight = margin, contrastive_weight, regression_weight
        self.negatives, self.form = negatives, form

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        s, t = l2_normalize(student.embedding), l2_normalize(teacher.embedding)
        distances = pairwise_distance(s, t).clamp(min=MIN_DISTANCE)
        same = batch.labels[:, None] == batch.labels
        nearest = distances.masked_fill(same, torch.inf).topk(min(self.negatives, len(t)), dim=1, largest=False).values
        # A negative that does not exist is at the margin, where it costs nothing.
        nearest = nearest.masked_fill(nearest.isinf(), self.margin)
        anchors, positives = (same & ~torch.eye(len(t), dtype=torch.bool, device=t.device)).nonzero(as_tuple=True)
        tuples = torch.cat([distances[anchors, positives, None], nearest[anchors]], dim=1)
        contrastive = tuple_losses(tuples, self.margin, self.form).sum() / max(1, len(tuples))
        return {
            "aml_contrastive": self.contrastive_weight * contrastive,
            "aml_regression": self.regression_weight * distances.diagonal().mean(),
        }


def tuple_losses(distances: Tensor, margin: float, form: Literal["paper", "ssp"]) -> Tensor:
    """Compute the contrastive loss of each tuple.

    Args:
        distances: (tuples, 1 + negatives): of the anchor from its positive, and from its negatives.
        margin: The margin.
        form: `paper` or `ssp`, as for `AML`.

    Returns:
        (tuples,) losses.
    """
    positive = distances[:, 0].square() / 2
    if form == "ssp":
        return distances.shape[1] * positive + (margin - distances).square().sum(dim=1) / 2
    return positive + (margin - distances[:, 1:]).relu().square().sum(dim=1) / 2
