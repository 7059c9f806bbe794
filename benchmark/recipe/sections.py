"""What a recipe may say: its keys, their types and the engine's defaults."""

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmark.errors import UserError
from benchmark.retrieval.protocol import AveragePrecision, Protocol, Ties
from benchmark.retrieval.reranking import KReciprocal, QueryExpansion
from benchmark.utils import strict_yaml
from benchmark.utils.recipe_hash import recipe_hash

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes


RULES = ("average_precision", "ties", "expansion", "reranking")
"""What a recipe may change about how a dataset judges."""


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values are not coerced from other types."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Network(Section):
    """A teacher's or student's architecture; see `benchmark.model.embedder.Embedder`."""

    backbone: str = "resnet50"
    args: dict[str, Any] = {}
    stem: Literal["imagenet", "no_pool", "stride1"] = "imagenet"
    last_stride: Literal[1, 2] = 1
    pool: Literal["avg", "gem"] = "avg"
    neck: Literal["linear", "bn"] = "linear"
    dim: int = Field(512, gt=0)
    head: Literal["linear", "cosine"] = "linear"
    scale: float = Field(16.0, gt=0)
    image_size: tuple[Positive, Positive] | None = None
    """(height, width) to which this network resizes what it is given; empty for images as the recipe sizes them."""
    weights: str = "imagenet"
    """Where training starts: `imagenet` (timm's pretrained), `random`, `teacher`, or a file."""

    def title(self, compressed: bool = False) -> str:
        """What people call the network: its backbone, and its widths where they are not the usual ones."""
        widths, base = self.args.get("channels"), self.args.get("base_width")
        name = self.backbone + (f" {'-'.join(map(str, widths))}" if widths else "") + (f" w{base}" if base else "")
        if self.image_size:
            name += f" at {self.image_size[0]}x{self.image_size[1]}"
        return f"{name}, compressed" if compressed else name


class Triplet(Section):
    """Batch-hard triplet loss."""

    weight: float = Field(1.0, ge=0)
    margin: float = Field(0.35, ge=0)
    feature: Literal["pooled", "embedding"] = "pooled"
    normalize: bool = False
    from_epoch: int = Field(1, ge=1)
    """First epoch (counted from 1) in which it is used."""


class Task(Section):
    """The loss of the retrieval task itself, the same for every method."""

    label_smoothing: float = Field(0.1, ge=0, lt=1)
    triplet: Triplet = Triplet()


class Optimizer(Section):
    type: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0)
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
    """Linear warm-up from `warmup_factor`, a constant part, then a cosine to `final_factor`; set at every step."""

    epochs: int = Field(120, ge=1)
    warmup_epochs: int = Field(10, ge=0)
    warmup_factor: float = Field(0.1, gt=0, le=1)
    constant_until: int = Field(40, ge=0)
    """Epoch at which the cosine begins."""
    final_factor: float = Field(1e-5, ge=0, le=1)


class Sampler(Section):
    """Every batch holds `identities` x `images` images, each in `views` augmentations."""

    identities: int = Field(16, ge=2)
    images: int = Field(6, ge=1)
    views: int = Field(1, ge=1)

    @property
    def batch_size(self) -> int:
        return self.identities * self.images * self.views


class Augment(Section):
    pad: int = Field(10, ge=0)
    pad_mode: Literal["constant", "edge", "reflect"] = "constant"
    flip: float = Field(0.5, ge=0, le=1)
    erase: float = Field(0.5, ge=0, le=1)


class Train(Section):
    task: Task = Task()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    sampler: Sampler = Sampler()
    augment: Augment = Augment()


class Teacher(Section):
    """The large model: trained here with its own `train` section, or taken from `checkpoint`."""

    network: Network = Network(backbone="resnet101")
    train: Train = Train()
    seed: Seed = 0
    checkpoint: str | None = None
    """Folder of a finished run, or a file with the weights of the whole network."""


class Evaluate(Section):
    batch_size: int = Field(256, ge=1)
    every: int = Field(0, ge=0)
    """Validate the student every so many epochs during training; 0 never."""
    average_precision: AveragePrecision = "rectangular"
    """This and the following are rules of `Protocol`; leaderboards keep what is judged by others apart."""
    ties: Ties = "pessimistic"
    expansion: QueryExpansion | None = None
    reranking: KReciprocal | None = None

    def judged_by(self, protocol: Protocol) -> Protocol:
        """A dataset's protocol with these rules.

        Raises:
            UserError: They do not go together.
        """
        try:
            return replace(protocol, **{rule: getattr(self, rule) for rule in RULES})
        except ValueError as error:
            raise UserError(f"evaluate: {error}") from error

    def non_default(self) -> dict[str, Any]:
        """The rules that differ from the usual ones, as plain values."""
        usual = Evaluate()
        changed = {rule for rule in RULES if getattr(self, rule) != getattr(usual, rule)}
        return self.model_dump(mode="json", include=changed)

    def default_rules(self) -> Self:
        """The same with the usual rules."""
        return self.model_copy(update={rule: getattr(Evaluate(), rule) for rule in RULES})


class Runtime(Section):
    """How the work is done. Only `amp` and `compile` are part of the recipe's hash.

    The number of threads changes the last digits of a result; the record states it.
    """

    amp: Literal["auto", "bf16", "off"] = "auto"
    compile: str | None = None
    """A torch.compile backend, such as `inductor`."""
    workers: int | None = Field(None, ge=0)
    """Processes that load images; as many as suit the machine where empty."""
    cache: str | None = None
    """Folder in which decoded and resized images are kept for later runs."""
    skip_broken: bool = False
    """Leave out, and count, images that cannot be decoded."""
    threads: int | None = Field(None, ge=1)
    """Threads of the CPU's operators; the machine's cores where empty."""
    tensorboard: bool = False


class Plugin(BaseModel):
    """The name of a registered method or dataset, and its constructor's arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Recipe(Section):
    """A run's whole configuration."""

    version: Literal[1] = 1
    dataset: Plugin
    method: Plugin
    seed: Seed = 0
    image_size: tuple[Positive, Positive] = (256, 256)
    """(height, width)"""
    teacher: Teacher = Teacher()
    student: Network = Network()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    runtime: Runtime = Runtime()

    @property
    def hash(self) -> str:
        """sha256 of everything in the recipe that can change the result, were all images whole."""
        return recipe_hash(self.model_dump(mode="json"))

    def yaml(self) -> str:
        """The recipe as YAML that `benchmark run --config` replays."""
        return strict_yaml.dump(self.model_dump(mode="json"))

    def for_teacher(self) -> "Recipe":
        """The recipe by which this recipe's teacher is trained: the teacher's network alone."""
        return self.model_copy(
            update={
                "method": Plugin(name="none"),
                "student": self.teacher.network,
                "train": self.teacher.train,
                "seed": self.teacher.seed,
                "teacher": self.teacher.model_copy(update={"train": Train()}),
                "evaluate": self.evaluate.model_copy(update={"every": 0}),
            }
        )
