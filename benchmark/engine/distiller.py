"""Student, teacher, method and task loss as one mmengine model."""

from collections.abc import Callable
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor
from torch.nn import functional as F

from benchmark.data.batch import Batch
from benchmark.engine.compat import InitialisedModel
from benchmark.losses import batch_hard_triplet
from benchmark.method import Method
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.recipe import Task


class TaskLoss:
    """Identity cross-entropy with label smoothing, plus batch-hard triplet; the same for every method.

    Luo et al., Bag of Tricks and a Strong Baseline for Deep Person Re-identification, CVPRW 2019.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.epoch = 1
        """The running epoch, counted from 1."""

    def __call__(self, features: Features, labels: Tensor) -> dict[str, Tensor]:
        """Weighted scalar terms; `labels` is (B,) int64."""
        triplet = self.task.triplet
        smoothing = self.task.label_smoothing
        terms = {"identity": F.cross_entropy(features.logits.float(), labels, label_smoothing=smoothing)}
        if triplet.weight and self.epoch >= triplet.from_epoch:
            compared = features.pooled if triplet.feature == "pooled" else features.embedding
            distance = batch_hard_triplet(compared, labels, triplet.margin, triplet.normalize)
            terms["triplet"] = triplet.weight * distance
        return terms


class Distiller(InitialisedModel):
    """Computes the training loss of a batch, and the embeddings of a validation batch.

    The teacher is held outside the module tree: it is in no checkpoint and no optimiser group, `train()` does not reach
    it, and it computes no gradients.

    Args:
        student: The network to train.
        teacher: A trained network; None for a method that needs none.
        method: Gives the terms of the loss that are beside the task's.
        task: The task's terms.
        compile: A torch.compile backend for the forward passes of training; None runs them as they are.
    """

    def __init__(
        self, student: Embedder, teacher: Embedder | None, method: Method, task: TaskLoss, compile: str | None = None
    ) -> None:
        super().__init__(data_preprocessor=BaseDataPreprocessor(non_blocking=True))
        self.student = student
        self.method = method
        self.task = task
        # Bound methods, not modules. Compiling a module in place would leave `features` as it is.
        self.student_features = _features(student, compile)
        self.teacher_features = _features(teacher, compile) if teacher is not None else None

    def forward(
        self, images: Tensor, labels: Tensor, cameras: Tensor, indices: Tensor, mode: str = "tensor"
    ) -> dict[str, Tensor] | list[Any] | Tensor:
        """`mode` "loss": named terms. "predict": (index, embedding) per image. "tensor": (B, D)."""
        if mode == "tensor":
            return self.student(images)
        if mode == "predict":
            return list(zip(indices.cpu(), self.student(images).float().cpu(), strict=True))
        batch = Batch(images, labels, cameras, indices)
        student, teacher = self.student_features(images), None
        if self.teacher_features is not None:
            with torch.no_grad():
                teacher = self.teacher_features(images)
        terms = self.task(student, labels) | self.method.loss(student, teacher, batch)
        # mmengine adds up what is called "loss..." and nothing else.
        return {f"loss_{name}": term for name, term in terms.items()}


def _features(network: Embedder, backend: str | None) -> Callable[[Tensor], Features]:
    return torch.compile(network.features, backend=backend) if backend else network.features
