"""Student, teacher, method and task loss as one mmengine model."""

from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.engine.compat import InitialisedModel
from benchmark.engine.task_loss import TaskLoss
from benchmark.method import Method
from benchmark.model.embedder import Embedder


class Distiller(InitialisedModel):
    """Computes the training loss of a batch, and the embeddings of a validation batch.

    The teacher is held outside the module tree: it is in no checkpoint and no optimiser group, `train()` does not reach
    it, and it computes no gradients.
    """

    def __init__(self, student: Embedder, teacher: Embedder | None, method: Method, task: TaskLoss) -> None:
        super().__init__(data_preprocessor=BaseDataPreprocessor(non_blocking=True))
        self.student = student
        self.method = method
        self.task = task
        self._teacher = (teacher,)

    def forward(
        self, images: Tensor, labels: Tensor, cameras: Tensor, indices: Tensor, mode: str = "tensor"
    ) -> dict[str, Tensor] | list[Any] | Tensor:
        """`mode` "loss": named terms. "predict": (index, embedding, identity, camera) per image. "tensor": (B, D)."""
        if mode == "tensor":
            return self.student(images)
        if mode == "predict":
            return list(zip(indices, self.student(images).float(), labels, cameras, strict=True))
        batch = Batch(images, labels, cameras, indices)
        student = self.student.features(images)
        teacher = student
        if self._teacher[0] is not None:
            with torch.no_grad():
                teacher = self._teacher[0].features(images)
        terms = self.task(student, labels) | self.method.loss(student, teacher, batch)
        # mmengine adds up what is called "loss..." and nothing else.
        return {f"loss_{name}": term for name, term in terms.items()}
