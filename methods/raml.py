"""Resolution-asymmetric metric learning."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Embedder, Features, Method, Needs, Plan, Range
from benchmark.losses import l2_normalize
from benchmark.utils.precision import full_precision

Weight = Annotated[float, Field(ge=0)]
EPSILON = 1e-6
"""Added to every difference before it is squared, as in both released codes."""


@METHODS.register_module("raml")
class RAML(Method):
    """Resolution-asymmetric metric learning: match the teacher's embeddings and their cosine similarities.

    Suma, Tolias: Large-to-small Image Resolution Asymmetry in Deep Metric Learning. WACV 2023.

    Equation:

        weight * sum over groups of [
            mean_a (1 - <s_a, t_a>)^2 + mixed_weight * M(s t^T, t t^T) + student_weight * M(s s^T, t t^T)]

    where s and t are the L2-normalized embeddings of student and teacher for a group of A images, and M is the mean
    square of the differences off the diagonal. 1e-6 is added to every difference before it is squared.

    With `relations: views`, as in the authors' code, a group is all augmentations of one image. With
    `relations: batch`, as in AIR_Distiller, the only group is the whole batch, with one view of each image. The loss is
    then a mean where the authors' is a sum over images, so neither weights nor learning rates transfer.

    Implementation: `batch` is the default because batches here consist of P identities x K images in one view, for the
    task loss. With views instead, the task loss would get fewer different images in a batch of the same size, and
    positives that are copies. To use `views`, set train.sampler.views (the authors use 8); `weight` can compensate for
    the sum over images.

    Defaults: the weights are the authors' for CUB. The presets `cub`, `cars` and `sop` are theirs for these datasets,
    with `views`. The preset `air_distiller` is what that code trains with on CUB: by a bug it reads the first weight
    into both.

    Args:
        mixed_weight: Weight of the cosines between student and teacher (lambda 1).
        student_weight: Weight of the cosines within the student's space (lambda 2).
        weight: Weight of all three terms.
        relations: The images whose cosines are compared: the `batch`, or the `views` of one image.
    """

    kind: ClassVar[str] = "embeddings"
    search: ClassVar[Mapping[str, Range]] = {"mixed_weight": Range(0.08, 8), "student_weight": Range(0.07, 7)}
    needs = Needs(equal_embeddings=True)
    aligned = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cub": {"mixed_weight": 0.7718, "student_weight": 0.6684, "relations": "views"},
        "cars": {"mixed_weight": 0.6371, "student_weight": 0.7731, "relations": "views"},
        "sop": {"mixed_weight": 0.7482, "student_weight": 0.6778, "relations": "views"},
        "air_distiller": {"mixed_weight": 0.7718, "student_weight": 0.7718},
    }

    def __init__(
        self,
        mixed_weight: Weight = 0.7718,
        student_weight: Weight = 0.6684,
        weight: Weight = 1.0,
        relations: Literal["batch", "views"] = "batch",
    ) -> None:
        super().__init__()
        self.mixed_weight, self.student_weight, self.weight = mixed_weight, student_weight, weight
        self.relations = relations
        self.needs = self.needs | Needs(views=relations == "views")

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        self.views = plan.views

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        groups = (1, len(student.embedding)) if self.relations == "batch" else (-1, self.views)
        s, t = (l2_normalize(features.embedding).unflatten(0, groups) for features in (student, teacher))
        absolute, mixed, within = raml_terms(s, t)
        return {
            "raml_absolute": self.weight * absolute,
            "raml_mixed": self.weight * self.mixed_weight * mixed,
            "raml_student": self.weight * self.student_weight * within,
        }


def raml_terms(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the three terms of `RAML` without their weights, each a sum over groups.

    Args:
        student: (groups, A, D) rows of unit length, A above 1.
        teacher: The same shape.

    Returns:
        The terms of the embeddings, of the cosines between both networks, and of those within the student's space.
    """
    images = student.shape[1]
    with full_precision(student.device):
        mixed, within, target = student @ teacher.mT, student @ student.mT, teacher @ teacher.mT
    absolute = (1 - (student * teacher).sum(dim=2) + EPSILON).square().mean(dim=1).sum()
    diagonal = torch.eye(images, dtype=torch.bool, device=student.device)
    mixed, within = (
        (cosines - target + EPSILON).square().masked_fill(diagonal, 0).sum() / (images * (images - 1))
        for cosines in (mixed, within)
    )
    return absolute, mixed, within
