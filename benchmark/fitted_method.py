"""The base class of methods that fit something to the teacher's embeddings before they distill."""

from typing import Any

import torch
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.errors import UserError
from benchmark.method import Method, Plan, Progress, as_tuple
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.surgery import ChannelSelection
from benchmark.utils.distributed import on_main


class FittedMethod(Method):
    """A method with buffers that are fitted once to teacher embeddings of training images: centroids, a whitening.

    The embeddings are those of the first batches: `fit_images` of them, or those of the first epoch if that has fewer.
    Until they are collected, the method has no loss terms and the student is trained by the task loss alone; this needs
    no forward passes in addition to the training's. Afterwards, the buffers are constant.

    A subclass sets `fit_images` in its constructor, registers the buffers in `prepare`, with their final shapes, and
    defines `fit` and `distill`. Collected embeddings are not part of checkpoints within the first epoch: the teacher
    computes them again when a run resumes.
    """

    fit_images: int
    """Largest number of embeddings to fit to."""

    def __init__(self) -> None:
        super().__init__()
        self.fitted = False
        self._collected: list[Tensor] = []
        self._forgotten = 0
        """Number of batches that were collected before the checkpoint from which the run resumes."""

    def fit(self, embeddings: Tensor) -> dict[str, Tensor]:
        """Compute the buffers. Called once, on the main process.

        Args:
            embeddings: (N, D) of the teacher, not normalized, on the CPU. Those of several teachers are side by side.

        Returns:
            The new values of buffers by name.
        """
        raise NotImplementedError

    def distill(self, student: Features, teacher: Features | Any, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss terms with fitted buffers, as `loss` of other methods."""
        raise NotImplementedError

    def prepare(self, student: Embedder, teacher: Embedder | Any, plan: Plan) -> None:
        images = plan.steps // plan.epochs * plan.batch_size
        if plan.epochs == 1 and images < self.fit_images:
            raise UserError(
                f"train.schedule.epochs: 1: {self.name} first collects {self.fit_images} embeddings of the teacher, "
                f"and the only epoch has {images}; train for two epochs or more, or set method.fit_images to {images}"
            )

    def loss(self, student: Features, teacher: Features | Any, batch: Batch) -> dict[str, Tensor]:
        if not self.fitted:
            self._collect(teacher)
            if sum(map(len, self._collected)) < self.fit_images:
                return {}
            self._fit()
        return self.distill(student, teacher, batch)

    def after_epoch(self, student: Embedder, progress: Progress) -> list[ChannelSelection]:
        if not self.fitted:
            self._fit()
        return []

    def _fit(self) -> None:
        embeddings = torch.cat(self._collected)[: self.fit_images]
        if not embeddings.isfinite().all():
            raise UserError(
                f"{self.name}: embeddings of the teacher are NaN or infinite, and cannot be fitted to: set "
                "runtime.amp to off, or give another teacher"
            )
        # On one process, so that all have the same buffers to the bit.
        for name, value in on_main(lambda: self.fit(embeddings)).items():
            self.get_buffer(name).copy_(value)
        self.fitted, self._collected = True, []

    def remembered_steps(self) -> int:
        return self._forgotten

    def remember(self, teacher: Features | Any, batch: Batch, ago: int) -> None:
        self._collect(teacher)

    def _collect(self, teacher: Features | Any) -> None:
        embeddings = torch.cat([each.embedding for each in as_tuple(teacher)], dim=1)
        self._collected.append(embeddings.detach().cpu())

    def get_extra_state(self) -> Tensor:
        """Return whether the buffers are fitted, and the number of collected batches; checkpoints hold tensors."""
        return torch.tensor([int(self.fitted), len(self._collected)])

    def set_extra_state(self, state: Tensor) -> None:
        self.fitted, self._forgotten = bool(state[0]), int(state[1])
