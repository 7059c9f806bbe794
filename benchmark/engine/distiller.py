"""Student, teacher, method and task loss as one mmengine model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.engine.compat import InitializedModel
from benchmark.engine.synchronized_norm import SynchronizedStatistics
from benchmark.engine.task import TaskLoss
from benchmark.engine.teacher_outputs import Layout
from benchmark.errors import UserError
from benchmark.method import Method, as_tuple
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.utils.distributed import gathered, processes
from benchmark.utils.precision import full_precision

_UNLIMITED = 2**31
"""Limit of the number of times that torch.compile compiles one function."""


class Distiller(InitializedModel):
    """The model that mmengine trains: it returns the loss terms of a training batch or embeddings of test images.

    Teachers are kept outside the module tree: they are neither in checkpoints nor in the optimizer, `train()` does not
    change their mode, and they compute no gradients.

    Args:
        student: The network to train.
        teacher: A trained network, or several for a method that takes them; None for a method that needs none.
        method: Adds its loss terms to those of the task.
        task: The task loss.
        compile: A torch.compile backend for the forward passes of the training; None for eager mode.
        synchronize: Whether batch norms use the statistics of the whole batch if several processes share it.
    """

    def __init__(
        self,
        student: Embedder,
        teacher: Embedder | Sequence[Embedder] | None,
        method: Method,
        task: TaskLoss,
        compile: str | None = None,
        synchronize: bool = False,
    ) -> None:
        super().__init__(data_preprocessor=BaseDataPreprocessor(non_blocking=True))
        self.student = student
        self.method = method
        self.task = task
        self.synchronize = synchronize
        # Bound methods, not modules: compiling a module in place does not compile its method `features`.
        self.student_features = _features(student, compile)
        self.teacher_features = [_features(each, compile) for each in as_tuple(teacher)]
        self.stored: Layout | None = None
        """The layout of the teacher's outputs in batches that contain them; None if the teacher computes them."""

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        cameras: Tensor,
        indices: Tensor,
        stored: Tensor | None = None,
        mode: str = "tensor",
    ) -> dict[str, Tensor] | list[Any] | Tensor:
        """Process a batch.

        Args:
            images: (B, 3, H, W) uint8.
            labels: (B,) int64.
            cameras: (B,) int64.
            indices: (B,) int64, positions in the list of training or test images.
            stored: (B, bytes) uint8, outputs of the teacher in the layout `self.stored`; not read if that is None.
            mode: "loss", "predict" or "tensor".

        Returns:
            Loss terms by name ("loss"), a pair (index, embedding) per image ("predict"), or embeddings, (B, D)
            ("tensor").
        """
        if mode == "tensor":
            return self.student(images)
        if mode == "predict":
            with full_precision(images.device):
                return list(zip(indices.cpu(), self.student(images).float().cpu(), strict=True))
        with self._statistics():
            student, teachers = self.student_features(images), self._of_the_teachers(images, stored)
        with full_precision(images.device):
            student = self._of_the_batch(student)
            teacher = self.method.needs.received([self._of_the_batch(each) for each in teachers])
            batch = Batch(images, *map(gathered, (labels, cameras, indices)))
            terms = self.task(student, batch.labels)
            added = self.method.loss(student, teacher, batch)
        _check_terms(added, terms)
        terms |= added
        # mmengine adds up the terms whose names begin with "loss", and only logs the others.
        return {f"loss_{name}": term for name, term in terms.items()}

    def remember(self, batch: Batch, ago: int) -> None:
        """Let the method store the teacher's outputs of an earlier step again; see `Method.remember`.

        Args:
            batch: The batch of that step, on any device; of several processes, this process's part of it.
            ago: How many steps ago it was.
        """
        images, *labels, stored = self.data_preprocessor(batch, True)
        with self._statistics():
            teachers = self._of_the_teachers(images, stored)
        assert teachers, "a method that remembers the teacher's outputs needs a teacher"
        with full_precision(images.device):
            teacher = self.method.needs.received([self._of_the_batch(each) for each in teachers])
            self.method.remember(teacher, Batch(images, *map(gathered, labels)), ago)

    def _statistics(self) -> AbstractContextManager[object]:
        """Let batch norms use the statistics of the whole batch, if that is chosen."""
        return SynchronizedStatistics() if self.synchronize else nullcontext()

    def _of_the_teachers(self, images: Tensor, stored: Tensor | None) -> list[Features]:
        if self.stored is not None:
            assert stored is not None, "the batches of a training with stored outputs contain them"
            return [self.stored.unpack(stored)]
        with torch.no_grad():
            return [features(images) for features in self.teacher_features]

    def _of_the_batch(self, outputs: Features) -> Features:
        """Return outputs for the whole batch, which several processes share, in float32 or float64.

        Feature maps are large. They are gathered only if a method that reads them needs those of all images at once.
        """
        maps = any(
            (part.student_taps or part.teacher_taps) and not part.maps_per_image
            for part in self.method.modules()
            if isinstance(part, Method) and not part.parts
        )
        return outputs.of_all_processes(maps).upcast() if processes() > 1 else outputs.upcast()


def _check_terms(added: Any, task: Mapping[str, Tensor]) -> None:
    """Check what the loss of a method returns.

    Raises:
        UserError: It is no mapping of tensors, or has the name of a term of the task loss, which it would replace.
    """
    if not isinstance(added, Mapping) or not all(isinstance(term, Tensor) for term in added.values()):
        raise UserError("the loss of the method must return a dictionary of tensors: its weighted terms by name")
    if same := sorted(added.keys() & task.keys()):
        raise UserError(f"the loss of the method has the term {same[0]!r}, as the task loss has: rename it")


@contextmanager
def recompiling(backend: str | None) -> Iterator[None]:
    """Let torch.compile compile the student again after any number of structural changes.

    By default, torch stops after eight. The compiled code of the teacher is kept: it is compiled once.

    Args:
        backend: A torch.compile backend; None for eager mode, which needs nothing.
    """
    if backend is None:
        yield
        return
    import torch._dynamo  # takes a second

    with torch._dynamo.config.patch(recompile_limit=_UNLIMITED, accumulated_recompile_limit=_UNLIMITED):
        yield


def _features(network: Embedder, backend: str | None) -> Callable[[Tensor], Features]:
    return torch.compile(network.features, backend=backend) if backend else network.features
