"""Contextual similarity distillation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from benchmark import METHODS, Batch, Features, Method, Needs, Range
from benchmark.losses import kl_divergence, ranked_similarities

Temperature = Annotated[float, Field(gt=0)]


@METHODS.register_module("csd")
class CSD(Method):
    """Contextual similarity distillation: match the similarities to each image's neighbors in the teacher's space.

    Wu, Wang, Zhou, Li, Tian: Contextual Similarity Distillation for Asymmetric Image Retrieval. CVPR 2022.

    Equation:

        weight / B * sum_i KL(softmax_n(cos(t_i, t_n) / tau_t) || softmax_n(cos(s_i, t_n) / tau_s))

    where s and t are the embeddings of student and teacher, i runs over the B images in the batch, and n over the K of
    them that are nearest to i in the teacher's space, i included. Both sides compare with the teacher's embeddings, so
    student queries are trained to search a teacher gallery. Labels are not used.

    Implementation: the paper takes the neighbors from a precomputed gallery of the whole training set. Here they are
    images of the batch, as in AIR_Distiller, the only public code that was found. AIR_Distiller draws a batch of 256
    random images for this term, in addition to the batch of the task loss; here, the batch of the task loss is used, so
    positives are among the neighbors. A K above the batch size selects the whole batch.

    Defaults: temperatures, K and weight are AIR_Distiller's for CUB and In-Shop, used with cross-entropy and triplet
    loss. The preset `msmt17` is its weight for MSMT17. Because the two temperatures differ, a student equal to its
    teacher is not at the minimum.

    Args:
        top_k: Number K of neighbors.
        student_temperature: Temperature tau_s.
        teacher_temperature: Temperature tau_t.
        weight: Weight of the loss term.
    """

    kind: ClassVar[str] = "embeddings"
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(1, 100), "teacher_temperature": Range(0.003, 0.1)}
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
