"""The sections of a recipe: keys, types, ranges and defaults."""

from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from benchmark.errors import UserError
from benchmark.registry import DATASETS
from benchmark.retrieval.embedding_format import FLOAT32, EmbeddingFormat
from benchmark.retrieval.protocol import AveragePrecision, Protocol, Ties
from benchmark.retrieval.reranking import KReciprocal, QueryExpansion
from benchmark.utils import durations, strict_yaml
from benchmark.utils.recipe_hash import recipe_hash

# The upper bounds are far beyond sensible values. They let a mistyped value fail here, not in a library or in the
# allocation of memory.
Side = Annotated[int, Field(gt=0, le=8192)]
"""Height or width of an image in pixels."""
Width = Annotated[int, Field(gt=0, le=65_536)]
"""Number of channels."""
Epochs = Annotated[int, Field(ge=0, le=100_000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # the range that numpy accepts

PROTOCOL_KEYS = ("average_precision", "ties", "expansion", "reranking")
"""Keys of the section `evaluate` that replace rules of the dataset's protocol."""
BOARD_KEYS = ("images", *PROTOCOL_KEYS)
"""Keys of the section `evaluate` that select another leaderboard."""

Format = Annotated[str, AfterValidator(lambda text: str(EmbeddingFormat.parse(text)))]
"""A format of stored embeddings, as `EmbeddingFormat.parse` reads it."""


def _duration(value: int | str) -> int | str:
    durations.seconds(value)
    return value


Duration = Annotated[int | str, AfterValidator(_duration)]
"""Minutes, or text such as `11:30:00`; see `durations.seconds`."""


class Section(BaseModel):
    """Base class of sections: unknown keys are errors, and values are not converted from other types."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Network(Section):
    """Architecture of the teacher or the student; see `benchmark.model.embedder.Embedder`."""

    backbone: str = "resnet50"
    args: dict[str, Any] = {}
    stem: Literal["imagenet", "no_pool", "stride1"] = "imagenet"
    last_stride: Literal[1, 2, "auto"] = 1
    """`auto`: 1 where the backbone supports it, else 2. A composed recipe has the number."""
    pool: Literal["avg", "gem"] = "avg"
    neck: Literal["linear", "bn", "none"] = "linear"
    dim: int = Field(512, gt=0, le=65_536)
    head: Literal["linear", "cosine"] = "linear"
    scale: float = Field(16.0, gt=0)
    image_size: tuple[Side, Side] | None = None
    """(height, width) in pixels to which the network resizes its input; None for no resizing."""
    inner_widths: tuple[Width, ...] | None = None
    """Number of channels of each inner width of the backbone's residual blocks, in order of execution, such as those
    that a compressing method has found; None for those of the backbone."""
    weights: str = Field("imagenet", min_length=1)
    """Initial weights: `imagenet` (timm's pretrained weights), `random`, `teacher`, or a file."""

    def title(self, compressed: bool = False) -> str:
        """Return a display name: the backbone, and its non-default widths and input size."""
        widths, base = self.args.get("channels"), self.args.get("base_width")
        name = self.backbone + (f" {'-'.join(map(str, widths))}" if widths else "") + (f" w{base}" if base else "")
        if self.inner_widths:
            name += f" inner {'-'.join(map(str, self.inner_widths))}"
        if self.image_size:
            name += f" at {self.image_size[0]}x{self.image_size[1]}"
        return f"{name}, compressed" if compressed else name


class Triplet(Section):
    """Batch-hard triplet loss."""

    weight: float = Field(1.0, ge=0)
    margin: float = Field(0.35, ge=0)
    feature: Literal["pooled", "embedding"] = "pooled"
    normalize: bool = False
    from_epoch: int = Field(1, ge=1, le=100_000)
    """First epoch of the triplet loss, counted from 1."""


class Margin(Section):
    """A margin between the cosine of an image's identity and those of the others; needs `head: cosine`."""

    type: Literal["arcface", "cosface", "circle"]
    margin: float = Field(gt=0, le=3)


class Mined(BaseModel):
    """A miner of pytorch-metric-learning: its name, and its arguments as further keys."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str


class MetricLoss(Mined):
    """A loss of pytorch-metric-learning: its name, and its arguments as further keys."""

    weight: float = Field(1.0, gt=0)
    feature: Literal["pooled", "embedding"] = "embedding"
    miner: Mined | None = None


class Task(Section):
    """The loss of the retrieval task, the same for every method."""

    identity: float = Field(1.0, ge=0)
    """Weight of the cross-entropy of the identities."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    margin: Margin | None = None
    triplet: Triplet = Triplet()
    losses: tuple[MetricLoss, ...] = ()
    """Further losses."""


class LearningRates(Section):
    """Multiples of the learning rate for the parts of the training. With 0, a part keeps its initial weights."""

    backbone: float = Field(1.0, ge=0, le=1000)
    neck: float = Field(1.0, ge=0, le=1000)
    head: float = Field(1.0, ge=0, le=1000)
    method: float = Field(1.0, ge=0, le=1000)
    """Parameters of the method, such as of adapters between feature maps."""
    task: float = Field(1.0, ge=0, le=1000)
    """Parameters of the losses of the task, such as proxies."""


class Optimizer(Section):
    """SGD, Adam (with weight decay as a part of the gradient) or AdamW."""

    type: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0)
    lr_times: LearningRates = LearningRates()
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(5e-4, ge=0)
    clip_grad: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class Schedule(Section):
    """Linear warm-up from `warmup_factor`, a constant part, and a decay, updated at every step.

    The decay is a cosine to `final_factor`, or a multiplication by `gamma` at the end of each epoch in `milestones`.
    """

    epochs: int = Field(120, ge=1, le=100_000)
    warmup_epochs: Epochs = 10
    warmup_factor: float = Field(0.1, gt=0, le=1)
    constant_until: Epochs = 40
    """Epoch at which the cosine begins."""
    final_factor: float = Field(1e-5, ge=0, le=1)
    decay: Literal["cosine", "steps"] = "cosine"
    milestones: tuple[Epochs, ...] = ()
    gamma: float = Field(0.1, gt=0, le=1)
    frozen_epochs: Epochs = 0
    """Number of epochs at the beginning in which the backbone is not trained, and its batch norms are not updated."""

    @model_validator(mode="after")
    def _milestones_belong_to_steps(self) -> Self:
        if (self.decay == "steps") != bool(self.milestones):
            raise ValueError("decay: steps needs milestones, such as [40, 90], and a cosine has none")
        if any(first >= second for first, second in pairwise((0, *self.milestones))):
            raise ValueError("milestones must be ascending epochs above 0")
        return self


class Sampler(Section):
    """Composition of a batch: `identities` x `images` images, each in `views` augmented views."""

    identities: int = Field(16, ge=2, le=65_536)
    images: int = Field(6, ge=1, le=65_536)
    views: int = Field(1, ge=1, le=1024)

    @property
    def batch_size(self) -> int:
        """Number of images in a batch; every view counts."""
        return self.identities * self.images * self.views


class Transform(BaseModel):
    """A transform of `torchvision.transforms.v2`: its name, and its arguments as further keys."""

    model_config = ConfigDict(extra="allow", frozen=True)
    type: str


class Augment(Section):
    """Padding and random crop, horizontal flip, further transforms, and random erasing, in this order."""

    pad: int = Field(10, ge=0, le=8192)
    pad_mode: Literal["constant", "edge", "reflect"] = "constant"
    flip: float = Field(0.5, ge=0, le=1)
    erase: float = Field(0.5, ge=0, le=1)
    load_size: tuple[Side, Side] | None = None
    """(height, width) to which training images are resized before the transforms; None for the recipe's size."""
    transforms: tuple[Transform, ...] = ()


class Train(Section):
    """The training of one network."""

    task: Task = Task()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    sampler: Sampler = Sampler()
    augment: Augment = Augment()
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is validated and deployed; None for the weights of
    the last step."""


class Teacher(Section):
    """The teacher: trained with its own `train` section, loaded from `checkpoint`, or `frozen`."""

    network: Network = Network(backbone="resnet101")
    train: Train = Train()
    seed: Seed = 0
    checkpoint: str | None = Field(None, min_length=1)
    """Folder of a finished run, a file with the weights of the complete network, or the name of a published teacher."""
    frozen: bool = False
    """Use the network with the initial weights that `network.weights` names, and train nothing."""
    cached_views: int = Field(0, ge=0, le=65_536)
    """Number of fixed augmentations of every training image, for which the outputs of the teacher are computed once for
    all runs. 0: every augmentation is new, and the teacher computes in every step."""

    @model_validator(mode="after")
    def _frozen_has_no_checkpoint(self) -> Self:
        if self.frozen and self.checkpoint is not None:
            raise ValueError("frozen uses network.weights, and checkpoint other weights: set one of them, such as null")
        return self

    @property
    def is_trained(self) -> bool:
        """Whether runs train the teacher."""
        return self.checkpoint is None and not self.frozen


class Evaluate(Section):
    """Evaluation settings."""

    batch_size: int = Field(256, ge=1, le=1_000_000)
    every: Epochs = 0
    """Number of epochs between validations during the training; 0 for none."""
    epoch: Literal["last", "best"] = "last"
    """The epoch whose network is deployed: the last one, or the one with the highest mAP on the validation images. Of a
    method that compresses, only epochs with the final structure can be the best."""
    images: Literal["test", "validation"] = "test"
    """The images on which the finished run is scored. `benchmark tune` scores on the validation images, each of which
    searches all others, without re-ranking."""
    embedding: Format = str(FLOAT32)
    """The format in which galleries are stored when the finished run is scored, such as `int8`: see
    `benchmark.retrieval.EmbeddingFormat`. Validations, and the scores of the teacher, are of float32."""
    average_precision: AveragePrecision = "rectangular"
    """This key and the following ones replace rules of the dataset's protocol. Runs with non-default values are ranked
    on separate leaderboards."""
    ties: Ties = "pessimistic"
    expansion: QueryExpansion | None = None
    reranking: KReciprocal | None = None

    def protocol(self, protocol: Protocol) -> Protocol:
        """Return a dataset's protocol with these settings.

        Raises:
            UserError: The settings exclude each other.
        """
        try:
            protocol = replace(protocol, **{key: getattr(self, key) for key in PROTOCOL_KEYS})
        except ValueError as error:
            raise UserError(f"evaluate: {error}") from error
        return protocol.for_validation() if self.images == "validation" else protocol

    @property
    def embedding_format(self) -> EmbeddingFormat:
        """The format in which the gallery is stored."""
        return EmbeddingFormat.parse(self.embedding)

    def non_default(self) -> dict[str, Any]:
        """Return the settings that select another leaderboard than the defaults do, as plain values."""
        default = Evaluate()
        changed = {key for key in BOARD_KEYS if getattr(self, key) != getattr(default, key)}
        return self.model_dump(mode="json", include=changed)

    def of_training(self) -> Self:
        """Return these settings with default values of those that do not change the training."""
        return self.model_copy(update={key: getattr(Evaluate(), key) for key in (*BOARD_KEYS, "embedding")})


class Runtime(Section):
    """Execution settings. Only `amp`, `compile` and `sync_batchnorm` are part of the recipe's hash.

    The number of threads changes the last digits of a result, and is stated in the record.
    """

    amp: Literal["auto", "bf16", "fp16", "off"] = "auto"
    """Precision of the networks' forward passes: bfloat16, float16 with a scaled loss, or float32; see
    `autocast_dtype`. Logits, losses and evaluation are computed in float32."""
    compile: str | None = None
    """A torch.compile backend, such as `inductor`."""
    sync_batchnorm: bool = False
    """Whether batch norms use the statistics of the whole batch if several processes share it, instead of those of each
    process's own images; not with `compile`."""
    workers: int | None = Field(None, ge=0, le=1024)
    """Number of worker processes that load images; None for a number that suits the machine."""
    cache: str | None = Field(None, min_length=1)
    """Folder in which decoded and resized images are kept for later runs."""
    skip_broken: bool = False
    """Skip and count images that cannot be decoded, instead of stopping."""
    threads: int | None = Field(None, ge=1, le=4096)
    """Number of threads of CPU operators; None for one per core."""
    tensorboard: bool = False
    checkpoint_epochs: Epochs = 1
    """Number of epochs after which a checkpoint is written; 0 for none but that of the last epoch."""
    checkpoint_minutes: float | None = Field(None, gt=0, le=100_000)
    """Number of minutes after which a checkpoint is written, also within an epoch; None for none."""
    time_limit: Duration | None = None
    """Time since the start of the process after which a training writes a checkpoint and stops, as SLURM writes it:
    minutes, or text such as `11:30:00`."""


class Settings(Section):
    """Whether the method has the arguments of its authors, or some that `benchmark tune` chose for the dataset."""

    source: Literal["published", "tuned"] = "published"
    study: str | None = None
    """SHA-256 of the file of tuned arguments."""


class Paired(Section):
    """The published result that the run is compared with; see `benchmark.recipe.pair`."""

    name: str = Field(min_length=1)
    """Name of the pair."""
    changed: tuple[str, ...] = ()
    """Dotted keys whose values are not those of the pair."""


class Component(BaseModel):
    """A registered method or dataset: its name, and the arguments of its constructor as further keys."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor by name."""
        return dict(self.model_extra or {})


class Recipe(Section):
    """The complete configuration of a run."""

    version: Literal[1] = 1
    dataset: Component
    method: Component
    seed: Seed = 0
    image_size: tuple[Side, Side] = (256, 256)
    """(height, width) in pixels"""
    budget: float | None = Field(None, gt=0, le=1)
    """MACs of the deployed student as a fraction of the teacher's. It chooses the dataset's student of this cost, or
    sets `method.target_macs` of a method that compresses; None to leave both as they are."""
    teacher: Teacher = Teacher()
    """The teacher, or the first of several: the student's cost is stated as a fraction of its cost."""
    more_teachers: tuple[Teacher, ...] = Field((), max_length=100)
    """The other teachers, for methods that take several. `teacher: [first, second]` sets both keys."""
    student: Network = Network()
    settings: Settings = Settings()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    runtime: Runtime = Runtime()
    pair: Paired | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of everything that can change the result, in hexadecimal digits."""
        return recipe_hash(self.recorded())

    def recorded(self) -> dict[str, Any]:
        """Return the recipe as plain values, as records state it.

        It is without places on the disk of this machine, and without the times of checkpoints.
        """
        content = self._plain()
        content["runtime"]["cache"] = None
        for key in ("checkpoint_epochs", "checkpoint_minutes", "time_limit"):
            del content["runtime"][key]
        for option in _location_options(self.dataset.name):
            content["dataset"][option] = ""
        return content

    def yaml(self) -> str:
        """Return the recipe as YAML, which `benchmark run --config` accepts."""
        return strict_yaml.dump(self._plain())

    def _plain(self) -> dict[str, Any]:
        """Return the recipe as plain values, without a pair, or teachers after the first, if there are none."""
        unused = {key for key in ("pair", "more_teachers") if not getattr(self, key)}
        return self.model_dump(mode="json", exclude=unused)

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """All teachers."""
        return (self.teacher, *self.more_teachers)

    @property
    def teacher_keys(self) -> tuple[str, ...]:
        """The keys of their sections."""
        return ("teacher", *(f"more_teachers.{number}" for number in range(len(self.more_teachers))))

    def per_teacher(self) -> tuple["Recipe", ...]:
        """Return for each teacher the recipe that has no other one."""
        return tuple(self.model_copy(update={"teacher": each, "more_teachers": ()}) for each in self.teachers)

    def for_teacher(self) -> "Recipe":
        """Return the recipe that trains this recipe's first teacher, if it is trained, and scores it in float32."""
        evaluate = self.evaluate.model_copy(update={"embedding": str(FLOAT32)})
        return self.model_copy(
            update={
                "method": Component(name="none"),
                "student": self.teacher.network,
                "train": Train() if self.teacher.frozen else self.teacher.train,
                "seed": self.teacher.seed,
                "budget": None,
                "settings": Settings(),
                "pair": None,
                "teacher": self.teacher.model_copy(update={"train": Train(), "cached_views": 0}),
                "more_teachers": (),
                "evaluate": evaluate if evaluate.epoch == "best" else evaluate.model_copy(update={"every": 0}),
            }
        )


def _location_options(dataset: str) -> tuple[str, ...]:
    return DATASETS.find(dataset).location_options if dataset in DATASETS.names() else ()
