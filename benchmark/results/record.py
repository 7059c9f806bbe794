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

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0.0)]
Number = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]
"""A K or a batch size, as a key."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
USUAL_RULES: Mapping[str, Any] = {
    "average_precision": "rectangular",
    "tracks": False,
    "junk": [],
    "distractors": [],
    "ties": "pessimistic",
    "expansion": None,
    "reranking": None,
}
"""Rules of a protocol that the first records did not state, and what they were."""


class Part(BaseModel):
    """Base of everything in a record."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Split(Part):
    """How much one split of the dataset holds."""

    images: Count
    identities: Count
    cameras: Count


class Data(Part):
    """The data a run saw; `fingerprint` is the hash of its content, `versions` those of the software that made it.

    `skipped` counts the files that were left out as the dataset says, by split and reason; `broken` the images that
    were left out because they could not be decoded.
    """

    fingerprint: str | None
    splits: dict[str, Split]
    protocol: dict[str, Any]
    versions: dict[str, str]
    skipped: dict[str, Count] = {}
    broken: Count = 0

    @field_validator("protocol")
    @classmethod
    def _without_pooled_queries(cls, protocol: dict[str, Any]) -> dict[str, Any]:
        """Drop the key `multi_query` of earlier versions, whose only supported value is false."""
        if protocol.get("multi_query", False) is not False:
            raise ValueError("protocol.multi_query: pooled queries are not supported; only false is valid")
        return {rule: value for rule, value in protocol.items() if rule != "multi_query"}


class Cost(Part):
    """Cost of the deployed network: counted (parameters, macs, flops = 2 x macs) and measured (the rest).

    `latency_ms` is the median time of a batch, by batch size ("1", "64"), in milliseconds; `image_size` is (height,
    width) in pixels; `device` and `threads` say where latency and peak memory were measured.
    """

    parameters: Count
    macs: Count
    flops: Count
    image_size: tuple[int, int]
    latency_ms: dict[Number, Amount]
    peak_memory_mb: Amount
    device: str
    threads: int


class Network(Part):
    """The deployed network: a name people read ("resnet26 64-128-256"), and the hash of its tensors."""

    name: str
    embedding: int
    cost: Cost
    weights: Sha256


class Scores(Part):
    """Retrieval scores as fractions; `recall` by K ("1", "5"); `skipped` queries had no valid match.

    Records of the first versions lack `mAP_at_R`, `R_precision` and `precision` (by K).
    """

    mAP: Fraction
    mINP: Fraction
    recall: dict[Number, Fraction]
    mAP_at_R: Fraction | None = None
    R_precision: Fraction | None = None
    precision: dict[Number, Fraction] = {}
    queries: Count
    skipped: Count


class ScoreReport(Part):
    """Student queries against the student's gallery, and against the teacher's or why not.

    `average_precision` is that of every query against the student's gallery, in the order of the query list and to five
    digits; None for a query without a valid match. Records of the first versions lack it.
    """

    symmetric: Scores
    asymmetric: Scores | None
    asymmetric_reason: str | None
    average_precision: tuple[Fraction | None, ...] | None = None

    @model_validator(mode="after")
    def _check_queries(self) -> Self:
        if self.average_precision is None:
            return self
        known = [value for value in self.average_precision if value is not None]
        queries = len(self.average_precision), len(self.average_precision) - len(known)
        if queries != (self.symmetric.queries, self.symmetric.skipped):
            raise ValueError(
                f"average_precision is of {queries[0]} queries, {queries[1]} of them skipped; the scores say "
                f"{self.symmetric.queries} and {self.symmetric.skipped}"
            )
        if abs(sum(known) / max(1, len(known)) - self.symmetric.mAP) > 1e-5:
            raise ValueError(f"the mean of average_precision is not the mAP, {self.symmetric.mAP}")
        return self


class TeacherReport(Part):
    """The teacher of a student; `record` is its record's id, None for a checkpoint that came without one."""

    record: str | None
    network: str
    cost: Cost
    scores: Scores


class Saved(Part):
    """What the student saves, as fractions of the teacher; the ceilings are what its architecture allows at most.

    Negative for a student larger than its teacher.
    """

    parameters: float
    macs: float
    ceiling_parameters: float | None
    ceiling_macs: float | None


class Deploy(Part):
    """The largest difference between training-time and deployed embeddings over `images` real images."""

    max_abs_difference: Amount
    images: Count


class Budget(Part):
    """A cost that the student was to meet; target and reached are fractions of the teacher's."""

    kind: Literal["macs", "parameters"]
    target: Amount
    reached: Amount
    met: bool


class Environment(Part):
    """Software and hardware of the run."""

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
    """Of the training's autocast; evaluation is in float32."""


class Timing(Part):
    """Wall-clock seconds."""

    train_seconds: Amount
    evaluate_seconds: Amount


SCHEMA_VERSION: Final = 1

# Dataset and method become parts of file names and of commands, so they may not hold separators or spaces.
Name = Annotated[str, Field(pattern=r"^\w[\w.+-]*$")]

_NUMBERS = re.compile(r"\[\n[-+.\deE,\snul]*\]")

# Fields that may differ between two runs of one recipe: when and where it ran, and what was measured with a clock.
_VARYING: dict[str, Any] = {
    "created": True,
    "commit": True,
    "timing": True,
    "environment": True,
    "data": {"versions"},
    "network": {"cost": {"latency_ms", "peak_memory_mb", "device", "threads"}},
    "teacher": {"cost": {"latency_ms", "peak_memory_mb", "device", "threads"}},
}


class Record(Part):
    """One run of one recipe with one seed. A leaderboard is a pure function of records.

    `id` is `Record.make_id(recipe_hash, role)`, `created` an ISO 8601 time in UTC, `commit` the suite's git commit.
    `variant` holds the keys of the recipe, and their values, by which the benchmark differs from the dataset's usual
    one, such as `{"dataset.split": "closed"}`. `teacher` is None for a teacher's own record; so are `saved` and
    `budget`, which need a teacher.
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
    data: Data
    variant: dict[str, Any] = Field(default_factory=dict)
    network: Network
    teacher: TeacherReport | None
    scores: ScoreReport
    saved: Saved | None
    deploy: Deploy
    budget: Budget | None
    environment: Environment
    timing: Timing

    @staticmethod
    def make_id(recipe_hash: str, role: str) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the recipe's hash and the role."""
        return hashlib.sha256(f"{recipe_hash}{role}".encode()).hexdigest()[:12]

    @model_validator(mode="after")
    def _check_id(self) -> Self:
        expected = self.make_id(self.recipe_hash, self.role)
        if self.id != expected:
            raise ValueError(f"id {self.id!r} does not belong to this recipe_hash and role, whose id is {expected!r}")
        return self

    @property
    def board(self) -> str:
        """The leaderboard that the record belongs to: the dataset, and what is unusual about the benchmark."""
        parts = [self.dataset]
        for key, value in sorted(self.variant.items()):
            parts += [value] if isinstance(value, str) else [key.rpartition(".")[2], json.dumps(value)]
        return re.sub(r"[^\w.+-]+", "_", "-".join(parts)).strip("_")

    def fingerprint(self) -> str:
        """SHA-256 of what is deterministic: two runs of one recipe with the same seed agree on it."""
        return hashlib.sha256(json.dumps(self.deterministic(), sort_keys=True).encode()).hexdigest()

    def deterministic(self) -> dict[str, Any]:
        """What depends on neither clock nor place, as plain values."""
        return self.model_dump(mode="json", exclude=_VARYING)

    def write(self, path: Path) -> None:
        """Write the record to `path` as sorted, indented JSON, a list of numbers in a line, atomically."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(path, _NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the record at `path`.

        Raises:
            UserError: the file cannot be read, is no JSON, is of another schema version, or holds a wrong field.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            json.dumps(content, ensure_ascii=False).encode()  # JSON can name half a character, which no file can hold
        except OSError as error:
            raise UserError(f"{path}: cannot read the record: {error.strerror}") from error
        except (ValueError, RecursionError) as error:  # malformed or too deep, or no UTF-8
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
    """Refuse what this release cannot read, and say whether it or the record is too old."""
    if version == SCHEMA_VERSION and type(version) is int:
        return
    if version is None:
        raise UserError(f"{path}: not a record: schema_version is missing, which every record states")
    if type(version) is not int:  # True is an int, and 1.0 equals one
        raise UserError(f"{path}: not a record: schema_version must be a whole number, not {version!r}")
    relation = "newer" if version > SCHEMA_VERSION else "older"
    remedy = "update the package" if version > SCHEMA_VERSION else "run its recipe anew"
    raise UserError(
        f"{path}: schema_version is {version}, {relation} than the {SCHEMA_VERSION} that this release reads: {remedy}"
    )
