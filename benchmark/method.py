"""The contract between a distillation method and the training engine."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.model.cost import Size
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.surgery import ChannelSelection

if TYPE_CHECKING:
    from benchmark.recipe import Recipe

T = TypeVar("T")

KINDS = {
    "none": "no distillation",
    "logits": "class logits of student and teacher",
    "feature maps": "intermediate feature maps of student and teacher",
    "sample relations": "similarities between the images of a batch, within each embedding space",
    "embeddings": "embeddings of the student compared with embeddings of the teacher",
    "pruning": "compress the student before or during training",
    "combination": "the sum of several methods",
    "other": "any other kind",
}
"""Kinds of methods and their descriptions: the groups of `benchmark list methods`."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Requirements of a method.

    Embedding sizes, backbones and views are checked before training. `classifier` is checked for a teacher that is
    loaded from a checkpoint file; a teacher trained by the suite has a classifier. `sample_index` is informative: every
    batch carries the indices.
    """

    teacher: bool = True
    """A teacher network. If no method of a run needs one, `check`, `prepare` and `loss` receive None in its place."""
    classifier: bool = False
    """The teacher's logits over the training identities."""
    equal_embeddings: bool = False
    """Student and teacher embeddings of equal size."""
    same_backbone: bool = False
    """A student that starts with the teacher's backbone, block by block."""
    sample_index: bool = False
    """`Batch.indices`, because the method stores something for every training image."""
    views: bool = False
    """Several augmented views of every image in a batch: `train.sampler.views` above 1."""
    teacher_network: bool = False
    """The teacher itself in every step, because `prepare` selects feature maps of it or `loss` uses its layers. Then,
    or if the constructor sets `teacher_taps`, stored outputs (`teacher.cached_views`) do not suffice."""
    several_teachers: bool = False
    """The method takes any number of teachers. Of several, `check`, `prepare` and `loss` receive a tuple; see
    `as_tuple`."""

    @property
    def takes_several(self) -> bool:
        """Whether a run may have several teachers: the method takes them, or has no use for any."""
        return self.several_teachers or not self.teacher

    def __or__(self, other: "Needs") -> "Needs":
        """Return the requirements of both. Several teachers are possible if they are for both."""
        both = Needs(*(getattr(self, name) or getattr(other, name) for name in self.__slots__))
        return replace(both, several_teachers=both.teacher and self.takes_several and other.takes_several)

    def received(self, teachers: Sequence[T]) -> T | tuple[T, ...] | None:
        """Return what the method receives of the teachers of a run, or of their outputs.

        Returns:
            A tuple of all if there are several and it takes them, else the first; None if there are none.
        """
        if self.several_teachers and len(teachers) > 1:
            return tuple(teachers)
        return teachers[0] if teachers else None

    def describe(self) -> str:
        """Return the requirements as an English sentence."""
        parts = {
            "one or more teachers" if self.several_teachers else "a teacher": self.teacher,
            "the teacher's classifier": self.classifier,
            "embeddings of equal size": self.equal_embeddings,
            "a student with the teacher's backbone": self.same_backbone,
            "the index of every image": self.sample_index,
            "several views of every image (train.sampler.views)": self.views,
            "the teacher's network in every step": self.teacher_network,
        }
        named = [part for part, needed in parts.items() if needed]
        listed = " and ".join(filter(None, [", ".join(named[:-1]), *named[-1:]]))
        if self.teacher:
            return f"Needs {listed}."
        return f"Needs no teacher, but {listed}." if named else "Needs no teacher."


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipePlan:
    """The training settings that follow from the recipe alone, known before any image is read."""

    image_size: tuple[int, int]
    """(height, width) of training images, in pixels."""
    batch_size: int
    """Images in a batch; every view of an image counts."""
    views: int
    """Augmented views of each image in a batch; the views of an image are consecutive."""
    images_per_identity: int
    """Images of each identity in a batch; every view of an image counts."""
    epochs: int
    optimizer: Literal["sgd", "adam", "adamw"]
    momentum: float
    """Momentum of SGD; 0 for other optimizers."""
    weight_decay: float

    @classmethod
    def from_recipe(cls, recipe: "Recipe", **data: Any) -> Self:
        """Read the settings from a recipe.

        Args:
            recipe: A composed recipe.
            **data: The fields of a `Plan` that the recipe does not determine.
        """
        settings = recipe.train
        return cls(
            image_size=recipe.image_size,
            batch_size=settings.sampler.batch_size,
            views=settings.sampler.views,
            images_per_identity=settings.sampler.images * settings.sampler.views,
            epochs=settings.schedule.epochs,
            optimizer=settings.optimizer.type,
            momentum=settings.optimizer.momentum if settings.optimizer.type == "sgd" else 0.0,
            weight_decay=settings.optimizer.weight_decay,
            **data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(RecipePlan):
    """The settings of a training whose images are known."""

    labels: np.ndarray
    """(images,) int64 in 0 .. identities - 1: the identity of each training image, indexed by `Batch.indices`."""
    identities: int
    steps: int
    """Total number of optimizer steps."""
    learning_rate: Callable[[int], float]
    """The learning rate of a step, counted from 0."""

    @property
    def images(self) -> int:
        """Number of training images."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Progress:
    """Position in the training: `epoch` of `epochs` epochs and `step` optimizer steps are complete."""

    epoch: int
    epochs: int
    step: int


@dataclass(frozen=True, slots=True)
class Budget:
    """Target cost of a compressed student, as a fraction of its teacher's cost."""

    kind: Literal["macs", "parameters"]
    target: float

    def cost(self, size: Size) -> int:
        """Return the MACs or the parameters of `size`, whichever the budget limits."""
        return getattr(size, self.kind)

    def is_met(self, student: Size, teacher: Size) -> bool:
        """Return whether a student of a given size meets the budget."""
        return self.cost(student) <= self.target * self.cost(teacher)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What compression can remove at most: the costs of the deployed student before it, and at its limits."""

    full: Size
    """The student with all channels."""
    architecture: Size
    """The smallest student that the architecture allows."""
    reset: Size | None = None
    """The smallest student that resetting gradients alone leads to; None if it sets no limit."""

    def saved(self, smallest: Size) -> tuple[float, float]:
        """Return the fractions of the parameters and MACs that `smallest`, one of these students, saves."""
        return 1 - smallest.parameters / self.full.parameters, 1 - smallest.macs / self.full.macs


@dataclass(frozen=True, slots=True)
class Range:
    """The values of an argument that `benchmark tune` tries, on a logarithmic scale."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"Range({self.low}, {self.high}): must have 0 < low < high")


class Method(nn.Module):
    """Base class of distillation methods.

    Register a subclass with `METHODS.register_module()` and override what it changes; only `loss` is required.
    Learnable adapters are ordinary submodules: they are optimized with the student and are not part of the deployed
    network. Everything that a resumed run needs (queues, masks, counters) belongs in buffers, or is restored by
    `remember`. Constructor arguments are the parameters that a recipe can set. They are validated against their type
    hints, so each needs a hint and a default.

    The class docstring is the method's card: a summary line, the citation, the equation, its symbols, and any deviation
    from the paper or its code.

    A teacher is annotated as `Embedder | Any` or `Features | Any`: an override may declare `teacher: Features` if its
    `needs.teacher` is true, and has to accept `Features | None` if it is false, and `Features | tuple[Features, ...]`
    if its `needs.several_teachers` is true.
    """

    name: ClassVar[str]
    """The registered name."""
    parts: ClassVar[Mapping[str, type["Method"]]] = {}
    """The methods that a combination adds up, by name; empty for a single method."""
    kind: ClassVar[str] = "other"
    """What the method compares: a key of `KINDS`."""
    compresses: ClassVar[bool] = False
    """Whether the student becomes smaller than the recipe describes it. Such a method implements `minimal_student`."""
    budget_arguments: ClassVar[Mapping[str, Any]] = {}
    """Of a method that compresses, arguments that a recipe with a budget sets in addition to `target_macs`, unless it
    chooses a preset."""
    needs: Needs = Needs()
    """Requirements; an instance may change them according to its arguments."""
    aligned: bool = False
    """Whether the student is trained into the teacher's embedding space, so that student queries can be searched in a
    gallery embedded by the teacher (asymmetric retrieval). An instance may change it according to its arguments."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """Recipe fragment that overrides the dataset's, for example `{"student": {"like": "teacher"}}`."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of arguments, such as published values that are not the defaults: `--set method.preset=NAME`."""
    search: ClassVar[Mapping[str, Range]] = {}
    """The arguments that `benchmark tune` tunes, such as weights and temperatures."""
    student_taps: Sequence[str] = ()
    """Feature maps of the student that `loss` reads: a stage ("stage3"), the input of its last activation
    ("stage3:pre"), or a module by name ("layer1.0.bn2")."""
    teacher_taps: Sequence[str] = ()
    """Feature maps of the teacher that `loss` reads. Taps are read after `prepare`, which may set them. Taps set by the
    constructor are checked before training and have to be (B, C, H, W) feature maps. The patch tokens of a stage of a
    ViT or a Swin are arranged as such a map; the outputs of a module are read as they are."""
    accepts_sequences: ClassVar[bool] = False
    """Whether taps may have other shapes than (B, C, H, W), such as (B, N, C) sequences of tokens."""
    maps_per_image: ClassVar[bool] = False
    """Whether all terms that read feature maps are means over the images of a batch. Several processes that share a
    batch then read the maps of their own images; otherwise, the maps of all images are gathered, at a cost. All other
    outputs, the labels and the indices are always those of the whole batch, and every process computes the loss."""
    budget: Budget | None = None
    """The cost at which compression stops; the record states whether it was met."""

    def check(self, student: Embedder, teacher: Embedder | Any, plan: RecipePlan) -> None:
        """Check that the method supports these networks and settings. Called before any image is read.

        Args:
            student: On the `meta` device: its tensors have shapes and no values.
            teacher: On the `meta` device; None if the run has no teacher.
            plan: The settings that follow from the recipe.

        Raises:
            UserError: The method does not support a network or a setting.
        """

    def prepare(self, student: Embedder, teacher: Embedder | Any, plan: Plan) -> None:
        """Build adapters and edit the student. Called once, before the optimizer is built.

        Args:
            student: On the training device, with its initial weights.
            teacher: Frozen and in eval mode; None if the run has no teacher.
            plan: The settings of the training.
        """

    def loss(self, student: Features, teacher: Features | Any, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss terms that are added to the task loss. Called at every step; every method defines it.

        All outputs are in float32 and autocast is disabled, whatever the precision of the networks' forward passes.

        Args:
            student: Outputs of the student for the batch, with gradient.
            teacher: Outputs of the teacher for the batch, without gradient; None if the run has no teacher.
            batch: Labels, cameras and indices of the same images; `images` are those of this process only.

        Returns:
            Weighted scalar terms by name. Each is optimized and logged.
        """
        raise NotImplementedError

    def after_backward(self, student: Embedder) -> None:
        """Edit gradients between the backward pass and the optimizer step."""

    def after_epoch(self, student: Embedder, progress: Progress) -> list[ChannelSelection]:
        """Change the student's structure in place between epochs.

        Returns:
            Every parameter that was narrowed, so that the optimizer's state can follow.
        """
        return []

    def structure(self) -> dict[str, Any]:
        """Return what `restore` needs to repeat all structural changes: tensors, numbers, strings, lists and dicts."""
        return {}

    def restore(self, student: Embedder, structure: dict[str, Any]) -> None:
        """Repeat structural changes on a freshly prepared student, so that the weights of a checkpoint fit."""

    def remembered_steps(self) -> int:
        """Return the number of latest steps whose teacher outputs a resumed run needs again; see `remember`."""
        return 0

    def remember(self, teacher: Features | Any, batch: Batch, ago: int) -> None:
        """Store the teacher's outputs of an earlier step again, which are too large for checkpoints.

        Called when a run resumes, with the state of a checkpoint loaded, for each of the last `remembered_steps()`
        steps, oldest first.

        Args:
            teacher: Outputs of the teacher, as `loss` has received them in that step.
            batch: The batch of that step.
            ago: How many steps ago it was, from 1.
        """

    def report(self, student: Embedder) -> dict[str, float]:
        """Return values to log after every epoch, and once before the first."""
        return {}

    def progress_line(self, report: Mapping[str, float]) -> str:
        """Return a short text on the values of `report` for the progress display; empty for none."""
        return ""

    @classmethod
    def plots(cls, metrics: Sequence[Mapping[str, float]]) -> dict[str, str]:
        """Draw plots of a finished training.

        Args:
            metrics: The rows of the run's `metrics.jsonl`, one per epoch, which include the values of `report`.

        Returns:
            SVG text by file name, written to the run folder.
        """
        return {}

    def minimal_student(self, student: Embedder) -> Embedder:
        """Return the smallest network that `compact` can produce from this student. Called if `compresses` is true."""
        raise NotImplementedError

    def ceilings(self, student: Embedder, image_size: tuple[int, int]) -> Ceilings | None:
        """Return what compression can remove at most; None if that is not known, or if nothing is removed.

        Args:
            student: A student that is not prepared, perhaps on the `meta` device.
            image_size: (height, width) in pixels.
        """
        return None

    def compact(self, student: Embedder) -> Embedder:
        """Return the network that is deployed and measured, in eval mode. Called once, after training; may edit it."""
        return student


def as_tuple(teacher: T | Sequence[T] | None) -> tuple[T, ...]:
    """Return what a method receives as its teacher as a tuple: of several, of one, or of none."""
    if teacher is None:
        return ()
    return tuple(teacher) if isinstance(teacher, Sequence) else (teacher,)
