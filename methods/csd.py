"""Contextual similarity distillation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.losses import kl_divergence, ranked_similarities
from benchmark.method import Method, Needs
from benchmark.model.features import Features
from benchmark.registry import METHODS

Temperature = Annotated[float, Field(gt=0)]


@METHODS.register_module("csd")
class CSD(Method):
    """Contextual similarity distillation: to the teacher's neighbours the student is as similar as the teacher is.

    Wu, Wang, Zhou, Li, Tian: Contextual Similarity Distillation for Asymmetric Image Retrieval. CVPR 2022.

    Equation: weight / B * sum_i KL(softmax_n(cos(t_i, t_n) / tau_t) || softmax_n(cos(s_i, t_n) / tau_s)), i over the B
    images in the batch, n over the K of them that are nearest to i in the teacher's space, i among them, s and t the
    embeddings of student and teacher. The gallery is the teacher's on both sides, so that student queries come to fit
    it; labels are not used.

    The paper takes the neighbours from a gallery of the whole training set, prepared beforehand; here they are the
    batch's, as in AIR_Distiller, the only public code that was found, which draws a batch of 256 images at random
    beside the one of the task loss. Here it is the task's own batch, whose positives are among the neighbours. A K
    above the batch is the whole batch. Temperatures, K and weight are AIR_Distiller's for CUB and In-Shop, beside
    cross-entropy and triplet loss; the preset `msmt17` is its weight there. With its unequal temperatures, a student
    equal to its teacher is not at the minimum.

    Args:
        top_k: K.
        student_temperature: tau_s.
        teacher_temperature: tau_t.
        weight: Factor of the term.
    """

    kind: ClassVar[str] = "embeddings"
    needs = Needs(equal_embeddings=True)
    aligned = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"msmt17": {"weight": 5.0}}

    def __init__(
        self,
        top_k: Annotated[int, Field(ge=2)] = 256,
        student_temperature: Temperature = 1.0,
        teacher_temperature: Temperature = 0.01,
        weight: Annotated[float, Field(ge=0)] = 10.0,
    ) -> None:
        super().__init__()
        self.top_k, self.weight = top_k, weight
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        s, t = ranked_similarities(student.embedding, teacher.embedding, self.top_k)
        divergence = kl_divergence(s / self.student_temperature, t / self.teacher_temperature, temperature=1.0)
        return {"csd": self.weight * divergence}
