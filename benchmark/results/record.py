"""The record of one run: everything a leaderboard shows, and everything needed to repeat the run."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from benchmark.errors import UserError
from benchmark.utils.atomic import write_text

SCHEMA_VERSION: Final = 1
DEFAULT_RULES: Mapping[str, Any] = {
    "average_precision": "rectangular",
    "tracks": False,
    "junk": [],
    "distractors": [],
    "ties": "pessimistic",
    "expansion": None,
    "reranking": None,
}
"""Protocol rules that the first records do not state, with the values that applied to them."""
NOT_ALIGNED = "the method does not align the embedding spaces of student and teacher"
"""Reason for the lack of asymmetric scores: they would not be meaningful."""
IS_TEACHER = "only students are scored on the teacher's gallery"
"""Reason for the lack of asymmetric scores in the record of a teacher."""

_EARLIER_REASONS = (
    (re.compile(r"\S+ leaves the student's embeddings apart from the teacher's"), NOT_ALIGNED),
    (re.compile(r"it is the teacher"), IS_TEACHER),
)
"""Reasons as earlier versions worded them, with the current wording, so that a rerun agrees with an earlier record."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0.0)]
IntegerKey = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]
"""A positive integer as a JSON key: the K of Recall@K, or a batch size."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Dataset and method become parts of file names and of commands, so they must not hold separators or spaces.
Name = Annotated[str, Field(pattern=r"^\w[\w.+-]*$")]


class FrozenModel(BaseModel):
    """Base of the models that are read from files: immutable, without unknown fields, infinities or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Record(FrozenModel):
    """One run of one recipe with one seed. A leaderboard is a pure function of records.

    `id` is `Record.make_id(recipe_hash, role)`, `created` an ISO 8601 time in UTC, `commit` the suite's git commit.
    `variant` holds the non-default dataset options and evaluation settings by recipe key, such as
    `{"dataset.split": "closed"}`. `teacher`, `saved` and `budget` are None in the record of a teacher.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    role: Literal["teacher", "student"]
    id: str
    dataset: Name
    method: Name
    seed: int
    recipe_hash: str
    recipe: dict[str, Any]
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)$")]
    commit: str | None
    data: "Data"
    variant: dict[str, Any] = Field(default_factory=dict)
    network: "Network"
    teacher: "TeacherReport | None"
    scores: "ScoreReport"
    saved: "Savings | None"
    deploy: "DeployCheck"
    budget: "Budget | None"
    environment: "Environment"
    timing: "Timing"

    @staticmethod
    def make_id(recipe_hash: str, role: str) -> str:
        """Return the first 12 hexadecimal digits of the SHA-256 of the recipe's hash and the role."""
        return hashlib.sha256(f"{recipe_hash}{role}".encode()).hexdigest()[:12]

    @model_validator(mode="after")
    def _check_id(self) -> Self:
        expected = self.make_id(self.recipe_hash, self.role)
        if self.id != expected:
            raise ValueError(f"id {self.id!r} does not belong to this recipe_hash and role, whose id is {expected!r}")
        return self

    @property
    def board(self) -> str:
        """Name of the leaderboard that the record belongs to: the dataset, and the non-default settings if any."""
        parts = [self.dataset]
        for key, value in sorted(self.variant.items()):
            parts += [value] if isinstance(value, str) else [key.rpartition(".")[2], json.dumps(value)]
        return re.sub(r"[^\w.+-]+", "_", "-".join(parts)).strip("_")

    def fingerprint(self) -> str:
        """Return the SHA-256 of `deterministic()`; equal for two bit-identical runs of one recipe and seed."""
        return hashlib.sha256(json.dumps(self.deterministic(), sort_keys=True).encode()).hexdigest()

    def deterministic(self) -> dict[str, Any]:
        """Return the fields that must agree between two runs of one recipe and seed on one machine, as plain values."""
        return self.model_dump(mode="json", exclude=_VARYING)

    def write(self, path: Path) -> None:
        """Write the record to `path` atomically, as sorted and indented JSON with each list of numbers on one line."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(path, _NUMBERS.sub(lambda match: " ".join(match[0].split()), text) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the record at `path`.

        Raises:
            UserError: The file cannot be read, is not JSON, has another schema version, or holds a wrong field.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            json.dumps(content, ensure_ascii=False).encode()  # JSON can escape a lone surrogate, which no file can hold
        except OSError as error:
            raise UserError(f"{path}: cannot read the record: {error.strerror}") from error
        except (ValueError, RecursionError) as error:  # malformed, nested too deeply, or not UTF-8
            raise UserError(f"{path}: not a record: {error}") from error
        if not isinstance(content, Mapping):
            raise UserError(f"{path}: not a record: expected a JSON object")
        _check_version(path, content.get("schema_version"))
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first, *others = error.errors()
            field = ".".join(str(part) for part in first["loc"]) or "record"
            more = f" (and {len(others)} more)" if others else ""
            raise UserError(f"{path}: {field}: {first['msg']}{more}") from error


def _check_version(path: Path, version: object) -> None:
    """Reject a schema version that this release does not read, and name the remedy."""
    if version == SCHEMA_VERSION and type(version) is int:
        return
    if version is None:
        raise UserError(f"{path}: not a record: the field schema_version is missing")
    if type(version) is not int:  # True is an int, and 1.0 == 1
        raise UserError(f"{path}: not a record: schema_version must be an integer, not {version!r}")
    relation = "newer" if version > SCHEMA_VERSION else "older"
    remedy = "update the package" if version > SCHEMA_VERSION else "run its recipe again"
    raise UserError(
        f"{path}: schema_version {version} is {relation} than {SCHEMA_VERSION}, which this release reads; {remedy}"
    )


_NUMBERS = re.compile(r"\[\n[-+.\deE,\snul]*\]")
"""A list of numbers and nulls, as `json.dumps` indents it."""
# Fields that may differ between two runs of one recipe: when and where it ran, and measured times and memory.
_VARYING: dict[str, Any] = {
    "created": True,
    "commit": True,
    "timing": True,
    "environment": True,
    "data": {"versions"},
    "network": {"cost": {"latency_ms", "peak_memory_mb", "device", "threads"}},
    "teacher": {"cost": {"latency_ms", "peak_memory_mb", "device", "threads"}},
}


class Split(FrozenModel):
    """Size of one split of the dataset."""

    images: Count
    identities: Count
    cameras: Count


class Data(FrozenModel):
    """The images and the protocol of a run.

    `fingerprint` is the hash of the content of the images, and `versions` the software that generated them. `skipped`
    counts the files that the dataset excludes by its rules, by split and reason; `broken` counts the images that were
    left out because they could not be decoded.
    """

    fingerprint: str | None
    splits: dict[str, Split]
    protocol: dict[str, Any]
    versions: dict[str, str]
    skipped: dict[str, Count] = {}
    broken: Count = 0

    @field_validator("protocol")
    @classmethod
    def _drop_pooled_queries(cls, protocol: dict[str, Any]) -> dict[str, Any]:
        """Drop the key `multi_query` of earlier versions, whose only supported value is false."""
        if protocol.get("multi_query", False) is not False:
            raise ValueError("protocol.multi_query: pooled queries are not supported; only false is valid")
        return {rule: value for rule, value in protocol.items() if rule != "multi_query"}


class Network(FrozenModel):
    """The deployed network; `name` is for readers ("resnet26 64-128-256"), `weights` the hash of its tensors."""

    name: str
    embedding: int
    cost: "Cost"
    weights: Sha256


class Cost(FrozenModel):
    """Cost of the deployed network: counted (parameters, macs, flops = 2 x macs) and measured (the rest).

    `latency_ms` is the median time per batch in milliseconds, by batch size ("1", "64"); `image_size` is (height,
    width) in pixels; latency and peak memory were measured on `device` with `threads` threads.
    """

    parameters: Count
    macs: Count
    flops: Count
    image_size: tuple[int, int]
    latency_ms: dict[IntegerKey, NonNegative]
    peak_memory_mb: NonNegative
    device: str
    threads: int

    @property
    def measured_on(self) -> str:
        """Where latency and peak memory were measured, such as "cpu, 2 threads"."""
        return f"{self.device}, {self.threads} thread{'' if self.threads == 1 else 's'}"


class Scores(FrozenModel):
    """Retrieval scores as fractions; `skipped` of the `queries` have no correct match and do not count.

    `recall` and `precision` are by K ("1", "5"). The first records lack `mAP_at_R`, `R_precision` and `precision`.
    """

    mAP: Fraction
    mINP: Fraction
    recall: dict[IntegerKey, Fraction]
    mAP_at_R: Fraction | None = None
    R_precision: Fraction | None = None
    precision: dict[IntegerKey, Fraction] = {}
    queries: Count
    skipped: Count


class ScoreReport(FrozenModel):
    """Scores of student queries on the student's gallery and, if they are meaningful, on the teacher's.

    `asymmetric_reason` is the reason why there are no asymmetric scores. `average_precision` holds one value per query
    on the student's gallery, in the order of the query list and rounded to five digits; None for a query without a
    correct match. The first records lack it.
    """

    symmetric: Scores
    asymmetric: Scores | None
    asymmetric_reason: str | None
    average_precision: tuple[Fraction | None, ...] | None = None

    @field_validator("asymmetric_reason")
    @classmethod
    def _use_current_wording(cls, reason: str | None) -> str | None:
        return next((current for earlier, current in _EARLIER_REASONS if earlier.fullmatch(reason or "")), reason)

    @model_validator(mode="after")
    def _check_queries(self) -> Self:
        if self.average_precision is None:
            return self
        known = [value for value in self.average_precision if value is not None]
        queries, skipped = len(self.average_precision), len(self.average_precision) - len(known)
        if (queries, skipped) != (self.symmetric.queries, self.symmetric.skipped):
            raise ValueError(
                f"average_precision covers {queries} queries, {skipped} of them skipped; expected "
                f"{self.symmetric.queries} and {self.symmetric.skipped}, as in symmetric"
            )
        if abs(sum(known) / max(1, len(known)) - self.symmetric.mAP) > 1e-5:
            raise ValueError(f"the mean of average_precision is not the mAP, {self.symmetric.mAP}")
        return self


class TeacherReport(FrozenModel):
    """The teacher of a student; `record` is the id of its record, None for a checkpoint that came without one."""

    record: str | None
    network: str
    cost: Cost
    scores: Scores


class Savings(FrozenModel):
    """Saved cost as fractions of the teacher's cost; negative for a student larger than its teacher.

    The ceilings are the largest savings that the student's architecture allows; None for a method that does not
    compress.
    """

    parameters: float
    macs: float
    ceiling_parameters: float | None
    ceiling_macs: float | None


class DeployCheck(FrozenModel):
    """Largest difference between training-time and deployed embeddings over `images` real images."""

    max_abs_difference: NonNegative
    images: Count


class Budget(FrozenModel):
    """Cost that a compressed student was to reach; `target` and `reached` are fractions of the teacher's cost."""

    kind: Literal["macs", "parameters"]
    target: NonNegative
    reached: NonNegative
    met: bool


class Environment(FrozenModel):
    """Software and hardware of the run; `precision` is of the training's autocast, evaluation uses float32."""

    python: str
    torch: str
    torchvision: str
    timm: str
    mmengine: str
    numpy: str
    platform: str
    device: str
    threads: int
    precision: Literal["float32", "bfloat16"]


class Timing(FrozenModel):
    """Wall-clock times in seconds."""

    train_seconds: NonNegative
    evaluate_seconds: NonNegative
