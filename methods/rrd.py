"""Relational representation distillation."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark import METHODS, Batch, Embedder, Features, Method, Plan, Range, RecipePlan, UserError
from benchmark.losses import l2_normalize
from benchmark.utils.precision import full_precision, upcast

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


@METHODS.register_module("rrd")
class RRD(Method):
    """Relational representation distillation: match similarities to a queue of the teacher's embeddings.

    Giakoumoglou, Stathaki: Relational Representation Distillation. arXiv 2407.12073, 2024.

    Equation:

        -weight / B * sum_b sum_k p_t[b, k] * log(p_s[b, k])

        p_s[b] = softmax_k(<v_s[b], Q[k]> / tau_s),  p_t[b] = softmax_k(<v_t[b], Q[k]> / tau_t)

    where v_s is the student's embedding after a learned linear layer and L2 normalization, v_t the teacher's after a
    random one, which is not trained, and Q is a queue of the K most recent v_t. The B images in the batch enter the
    queue first, so every image is compared with its own v_t, too. Embedding sizes may differ.

    Implementation: follows the authors' code, in which the teacher's layer gets no gradient, either: what is matched
    is a random projection of the teacher. It is a cross-entropy: a student equal to its teacher has a loss above 0. The
    queue starts as random rows of unit length (authors: columns of unit length), and K need not be a multiple of the
    batch size. The authors' variant with memories of all images, whose probabilities are exponentials of exponentials,
    is not implemented.

    Defaults: the authors', for classification. The paper's abstract makes the student's distribution the sharper one;
    the defaults of the code make it the teacher's, and the comments of the code exchange the two values, as does the
    preset `sharp_student`.

    Args:
        weight: Weight of the loss term.
        dim: Size of v.
        queue_size: Number K of rows in the queue.
        student_temperature: Temperature tau_s.
        teacher_temperature: Temperature tau_t.
    """

    kind: ClassVar[str] = "embeddings"
    search: ClassVar[Mapping[str, Range]] = {"weight": Range(0.1, 10), "student_temperature": Range(0.02, 0.5)}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sharp_student": {"student_temperature": 0.02, "teacher_temperature": 0.1}
    }
    queue: Tensor
    pointer: Tensor
    teacher_weight: Tensor
    teacher_bias: Tensor

    def __init__(
        self,
        weight: Annotated[float, Field(ge=0)] = 1.0,
        dim: Count = 128,
        queue_size: Count = 16384,
        student_temperature: Positive = 0.1,
        teacher_temperature: Positive = 0.02,
    ) -> None:
        super().__init__()
        self.weight, self.dim, self.queue_size = weight, dim, queue_size
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature

    def check(self, student: Embedder, teacher: Embedder, plan: RecipePlan) -> None:
        if self.queue_size < plan.batch_size:
            raise UserError(
                f"method.queue_size: {self.queue_size} rows do not hold a batch of {plan.batch_size} images; "
                f"set it to {plan.batch_size} or more"
            )

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        self.embed_student = nn.Linear(student.dim, self.dim)
        layer = nn.Linear(teacher.dim, self.dim)
        self.register_buffer("teacher_weight", layer.weight.detach())
        self.register_buffer("teacher_bias", layer.bias.detach())
        self.register_buffer("queue", l2_normalize(torch.randn(self.queue_size, self.dim)))
        self.register_buffer("pointer", torch.tensor(0))

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        with full_precision(student.embedding.device):
            v_s = l2_normalize(self.embed_student(upcast(student.embedding)))
            v_t = l2_normalize(F.linear(upcast(teacher.embedding), self.teacher_weight, self.teacher_bias))
            self._enqueue(v_t)
            logits = v_s @ self.queue.T / self.student_temperature
            target = torch.softmax(v_t @ self.queue.T / self.teacher_temperature, dim=1)
        return {"rrd": self.weight * F.cross_entropy(logits, target)}

    @torch.no_grad()
    def _enqueue(self, rows: Tensor) -> None:
        """Replace the oldest rows, in a new tensor, because backward may still read the old one."""
        places = (self.pointer + torch.arange(len(rows), device=rows.device)) % self.queue_size
        self.queue = self.queue.index_copy(0, places, rows)
        self.pointer = (self.pointer + len(rows)) % self.queue_size
