"""The contract of a distillation method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.model.cost import Size
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.surgery import ChannelSelection


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be given for a method to make sense.

    `benchmark.experiment.preflight` checks embeddings, backbones and views before anything is trained. `classifier` is
    checked for teachers loaded from a checkpoint file; those trained here have one. `sample_index` only describes the
    method: every batch carries the indices. The intermediate features that a method reads are its `student_taps` and
    `teacher_taps`.
    """

    teacher: bool = True
    """A teacher. Without one none is run, and `loss` gets the student's features twice."""
    classifier: bool = False
    """The teacher's logits over the identities of the training set."""
    equal_embeddings: bool = False
    """Embeddings of one size."""
    same_backbone: bool = False
    """A student that starts with the teacher's architecture, block by block."""
    sample_index: bool = False
    """`Batch.indices`: it remembers something of every training image."""
    views: bool = False
    """Several augmentations of every image in a batch: `train.sampler.views` above 1."""

    def __or__(self, other: "Needs") -> "Needs":
        """What both need."""
        return Needs(*(getattr(self, name) or getattr(other, name) for name in self.__slots__))

    def describe(self) -> str:
        """A sentence for people."""
        parts = {
            "a teacher" if self.teacher else "no teacher": True,
            "the teacher's classifier": self.classifier,
            "embeddings of one size": self.equal_embeddings,
            "a student with the teacher's architecture to start from": self.same_backbone,
            "the index of every sample": self.sample_index,
            "several views of every image (train.sampler.views)": self.views,
        }
        named = [part for part, needed in parts.items() if needed]
        listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
        return f"Needs {listed}."


KINDS = {
    "none": "no distillation",
    "logits": "class logits of student and teacher",
    "feature maps": "intermediate feature maps of student and teacher",
    "sample relations": "similarities between the images of a batch, within each embedding space",
    "embeddings": "embeddings of student and teacher in one common space",
    "pruning": "compress the student before or during training",
    "combination": "the sum of several methods",
    "other": "any other kind",
}
"""What a method compares, with a description of each kind: the groups of `benchmark list methods`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a method may know about the training to come."""

    labels: np.ndarray
    """(images,) int64 in 0 .. identities - 1: the identity of each training image; `Batch.indices` point into it."""
    identities: int
    batch_size: int
    """Images of a batch, every view of an image counted."""
    views: int
    """Augmentations of an image that follow each other in a batch."""
    epochs: int
    steps_per_epoch: int
    learning_rates: np.ndarray
    """(epochs * steps_per_epoch,): the learning rate of every step."""
    optimizer: str
    """"sgd" or "adamw"."""
    momentum: float
    weight_decay: float
    image_size: tuple[int, int]
    """(height, width) of a training image."""

    @property
    def images(self) -> int:
        """Training images."""
        return len(self.labels)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands: `epoch` of `epochs` are complete, and so are `step` optimiser steps in all."""

    epoch: int
    epochs: int
    step: int


@dataclass(frozen=True, slots=True)
class Budget:
    """A cost that a compressed student is to meet, as a fraction of its teacher's."""

    kind: Literal["macs", "parameters"]
    target: float

    def of(self, size: Size) -> int:
        """The figure of `size` that the budget is about."""
        return getattr(size, self.kind)


class Method(nn.Module):
    """A way to train a student with a teacher's help. Subclasses register with `METHODS` and override what they change.

    Learnable adapters are ordinary submodules: they are optimised with the student and are absent from its deployed
    weights. Whatever must survive a kill (queues, masks, counters) belongs in buffers. Constructor arguments are the
    method's parameters in a recipe; they are validated against their type hints, so every one needs a hint and a
    default.

    The class docstring is the method's card: a summary line, the citation, the equation, what each symbol is, where
    paper and released code differ and which is followed.
    """

    name: ClassVar[str]
    """The registered name; set by the registry."""
    kind: ClassVar[str] = "other"
    """What it compares, one of `KINDS`."""
    needs: Needs = Needs()
    """What has to be given; an instance may need more or less, by its arguments."""
    aligned: bool = False
    """Whether the student's embedding comes to lie where the teacher's does, so that a student's query can be searched
    in a gallery that the teacher embedded (the asymmetric protocol). An instance may differ, by its arguments."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """Recipe fragment merged over the dataset's, for example `{"student": {"like": "teacher"}}`."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of arguments, such as the published ones where the defaults are others: `--set method.preset=NAME`."""
    student_taps: Sequence[str] = ()
    """Intermediate features read from the student: a stage ("stage3"), what its last activation gets ("stage3:pre"), or
    the name of a module ("layer1.0.bn2")."""
    teacher_taps: Sequence[str] = ()
    """The same for the teacher. Both are read after `prepare`, which may set them; those that the constructor sets are
    checked before anything is trained, and must be maps, (B, C, H, W)."""
    budget: Budget | None = None
    """The cost at which compression is to stop; the record says whether it was met."""

    def check(self, student: Embedder, teacher: Embedder, image_size: tuple[int, int]) -> None:
        """Refuse networks that it cannot work on, by a UserError, before anything is trained.

        They have shapes and no values: their tensors are on the `meta` device.
        """

    def check_training(self, optimizer: str, batch_size: int) -> None:
        """Refuse a training that it cannot take part in, by a UserError, before anything is trained.

        Args:
            optimizer: "sgd" or "adamw".
            batch_size: Images in a batch, all views counted.
        """

    def prepare(self, student: Embedder, teacher: Embedder, plan: Plan) -> None:
        """Build adapters and edit the student, once, before the optimiser is made."""

    def loss(self, student: Features, teacher: Features, batch: Batch) -> dict[str, Tensor]:
        """Named scalar terms, already weighted, that are added to the task loss. Called at every step.

        `teacher` is computed without gradient. Values that should only be logged are not returned here. The one thing
        that a method has to define: a run of one that does not is refused before anything is trained.
        """
        raise NotImplementedError

    def after_backward(self, student: Embedder) -> None:
        """Edit gradients, between backward and the optimiser's step."""

    def after_epoch(self, student: Embedder, progress: Progress) -> list[ChannelSelection]:
        """Change the student's structure between epochs, in place; return every parameter that was narrowed."""
        return []

    def structure(self) -> dict[str, Any]:
        """What `restore` needs to repeat all structural changes so far, as tensors, numbers, strings, lists, dicts."""
        return {}

    def restore(self, student: Embedder, structure: dict[str, Any]) -> None:
        """Repeat the structural changes on a freshly prepared student, so that a checkpoint's weights fit."""

    def report(self, student: Embedder) -> dict[str, float]:
        """Figures about the student or the method, logged after every epoch."""
        return {}

    def minimal_student(self, student: Embedder) -> Embedder | None:
        """The smallest network that `compact` could give for this student; None for a method that does not compress."""
        return None

    def compact(self, student: Embedder) -> Embedder:
        """The network that is deployed and measured, in eval mode; called once, at the end, and may edit in place."""
        return student
