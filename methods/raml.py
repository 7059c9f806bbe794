"""Asymmetric metric learning of relations and of the embedding itself."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses import l2_normalize
from benchmark.method import Method, Needs, Plan
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.registry import METHODS
from benchmark.utils.precision import full_precision

Weight = Annotated[float, Field(ge=0)]
EPSILON = 1e-6
"""Added to every difference before it is squared, as in both released codes."""


@METHODS.register_module("raml")
class RAML(Method):
    """Resolution-asymmetric metric learning: the student's embeddings and their cosines approach the teacher's.

    Suma, Tolias: Large-to-small Image Resolution Asymmetry in Deep Metric Learning. WACV 2023.

    Equation: weight * sum over groups of [ mean_a (1 - s_a . t_a)^2 + mixed_weight * M(s t^T, t t^T) +
    student_weight * M(s s^T, t t^T) ], s and t the L2-normalised embeddings of a group of A images, M the mean square
    of the differences off the diagonal; 1e-6 is added to every difference before it is squared. In the authors' code
    (`relations: views`) a group is all augmentations of one image. In AIR_Distiller (`batch`) it is the whole batch,
    one view of each image: hence a mean where the authors have a sum over images, and neither weights nor learning
    rates transfer.

    `batch` is the default: batches here are P identities x K images in one view, for the sake of the task loss beside.
    Views in their stead would leave it fewer images of the same batch size, and positives that are copies. With
    `views`, set train.sampler.views (the authors: 8); the sum over images can be tempered by `weight`. The weights are
    the authors' for CUB; the presets `cub`, `cars` and `sop` are theirs for those sets, with `views`, and
    `air_distiller` is what that code trains with on CUB: by an error it reads the first weight into both.

    Args:
        mixed_weight: Factor of the cosines between student and teacher (lambda 1).
        student_weight: Factor of the cosines within the student's space (lambda 2).
        weight: Factor of all three terms.
        relations: Among which images the cosines are compared.
    """

    kind: ClassVar[str] = "embeddings"
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
        absolute, mixed, within = differences(s, t)
        return {
            "raml_absolute": self.weight * absolute,
            "raml_mixed": self.weight * self.mixed_weight * mixed,
            "raml_student": self.weight * self.student_weight * within,
        }


def differences(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three terms without their weights, each a sum over groups.

    Args:
        student: (groups, A, D), rows of unit length, A above 1.
        teacher: The same shape.
    """
    images = student.shape[1]
    with full_precision(student.device):
        across, within, model = student @ teacher.mT, student @ student.mT, teacher @ teacher.mT
    absolute = (1 - (student * teacher).sum(dim=2) + EPSILON).square().mean(dim=1).sum()
    diagonal = torch.eye(images, dtype=torch.bool, device=student.device)
    mixed, own = (
        (found - model + EPSILON).square().masked_fill(diagonal, 0).sum() / (images * (images - 1))
        for found in (across, within)
    )
    return absolute, mixed, own
