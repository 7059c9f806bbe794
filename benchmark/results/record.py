"""The record of one run: everything a leaderboard shows, and everything needed to repeat the run."""

import hashlib
import json
import marshal
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from benchmark.errors import UserError
from benchmark.results.fields import (
    ByK,
    Count,
    Flag,
    Fraction,
    FrozenModel,
    IntegerKey,
    Label,
    Name,
    NonNegative,
    Number,
    PerQuery,
    Pixels,
    Positive,
    RecordId,
    Seed,
    Sha256,
    Text,
    Time,
    Values,
)
from benchmark.utils import strict_json
from benchmark.utils.atomic import write_text
from benchmark.utils.names import check_page_name
from benchmark.utils.strict_json import shown

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
NONSTANDARD = {"dataset.images": "nonstandard"}
"""Variant of records of images that are not the published ones, by their counts. They are not on the official board."""

_EARLIER_REASONS = (
    (re.compile(r"\S+ leaves the student's embeddings apart from the teacher's"), NOT_ALIGNED),
    (re.compile(r"it is the teacher"), IS_TEACHER),
)
"""Reasons as earlier versions worded them, with the current wording, so that a rerun agrees with an earlier record."""

_STABLE = 1.5
"""Largest ratio of the 90th to the 10th percentile of stable latencies."""
_LONGEST_BOARD = 120
"""Longest name of a leaderboard in bytes, so that names of files have less than 255."""


class Record(FrozenModel):
    """One run of one recipe with one seed. A leaderboard is a pure function of records.

    `id` is `Record.make_id(recipe_hash, role)`, `created` an ISO 8601 time in UTC, `commit` the suite's git commit.
    `variant` holds the non-default dataset options and evaluation settings by recipe key, such as
    `{"dataset.split": "closed"}`. `teacher`, `saved` and `budget` are None in the record of a teacher.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    role: Literal["teacher", "student"]
    id: RecordId
    dataset: Name
    method: Name
    seed: Seed
    recipe_hash: Sha256
    recipe: Values
    created: Time
    commit: Text | None
    data: "Data"
    variant: Values = Field(default_factory=dict)
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

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if self.method == "teacher":
            raise ValueError("method: teacher is how tables call teachers; choose another name")
        check_page_name(self.board)
        return self

    @property
    def board(self) -> str:
        """Name of the leaderboard that the record belongs to: the dataset, and the non-default settings if any.

        A long name is cut, and ends with a hash of the settings.
        """
        parts = [self.dataset]
        for key, value in sorted(self.variant.items()):
            parts += [value] if isinstance(value, str) else [key.rpartition(".")[2], json.dumps(value)]
        name = re.sub(r"[^\w.+-]+", "_", "-".join(parts)).strip("_")
        if len(name.encode()) <= _LONGEST_BOARD:
            return name
        digest = hashlib.sha256(json.dumps(self.variant, sort_keys=True).encode()).hexdigest()[:12]
        return f"{name.encode()[: _LONGEST_BOARD - 13].decode(errors='ignore')}-{digest}"

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
    def read(cls, path: Path, shared: "Shared | None" = None) -> Self:
        """Read the record at `path`.

        Args:
            path: The file.
            shared: The parts of other records, which equal parts of this one are replaced by.

        Raises:
            UserError: The file cannot be read, is not JSON, has another schema version, or holds a wrong field.
        """
        try:
            content = strict_json.read(path)
        except OSError as error:
            raise UserError(f"{path}: cannot read the record: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path}: not a record: {error}; restore the file or remove it") from error
        if not isinstance(content, dict):
            raise UserError(f"{path}: not a record: expected a JSON object; restore the file or remove it")
        _check_version(path, content.get("schema_version"))
        try:
            return cls.model_validate(content if shared is None else shared.replace(content))
        except ValidationError as error:
            raise UserError(f"{path}: {_explain(error)}") from error


class Shared:
    """The equal parts of many records: data, teacher, environment and sections of the recipe are in memory once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Any] = {}

    def replace(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return the content of a record, as read from JSON, with each part that is known replaced by that one."""
        models: dict[str, type[FrozenModel]] = {"data": Data, "teacher": TeacherReport, "environment": Environment}
        parts = {
            name: self._replace(name, content[name], model.model_validate)
            for name, model in models.items()
            if isinstance(content.get(name), dict)
        }
        if isinstance(recipe := content.get("recipe"), dict):
            parts["recipe"] = {
                name: self._replace("recipe", section, lambda same: same) for name, section in recipe.items()
            }
        return {**content, **parts}

    def _replace(self, name: str, part: Any, validate: Callable[[Any], Any]) -> Any:
        key = (name, marshal.dumps(part, 2))  # a version in which equal values have equal bytes
        if key not in self._known:
            try:
                self._known[key] = validate(part)
            except ValidationError:
                return part  # the record reports it
        return self._known[key]


def _explain(error: ValidationError) -> str:
    """Return the first mistake of a record as one line: the field, what is wrong with it, and its value."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(shown(part).strip("'") for part in first["loc"]) or "record"
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    value = "" if first["type"] in ("missing", "value_error") else f", not {shown(first['input'])}"
    others = error.error_count() - 1
    return f"{field}: {message}{value}{f' (and {others} more)' if others else ''}"


def _check_version(path: Path, version: object) -> None:
    """Reject a schema version that this release does not read, and name the remedy."""
    if version == SCHEMA_VERSION and type(version) is int:
        return
    if version is None:
        raise UserError(f"{path}: not a record: the field schema_version is missing")
    if type(version) is not int:  # True is an int, and 1.0 == 1
        raise UserError(f"{path}: not a record: schema_version must be an integer, not {shown(version)}")
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
    "data": {"versions", "reading", "skipped"},  # files that are not used do not matter
    "network": {"cost": {"latency_ms", "latency_range_ms", "peak_memory_mb", "device", "threads"}},
    "teacher": {"cost": {"latency_ms", "latency_range_ms", "peak_memory_mb", "device", "threads"}},
}


class Split(FrozenModel):
    """Size of one split of the dataset."""

    images: Count
    identities: Count
    cameras: Count


class Data(FrozenModel):
    """The images and the protocol of a run.

    `fingerprint` is the hash of the images, labels and splits; the first records have it only for generated images, of
    which `versions` states the software. `skipped`
    counts the files that the dataset excludes by its rules, by split and reason; `broken` counts the images that were
    left out because they could not be decoded. The first records lack `reading`.
    """

    fingerprint: Text | None
    splits: dict[Label, Split]
    protocol: Values
    versions: dict[Label, Text]
    skipped: dict[Label, Count] = Field(default_factory=dict)
    broken: Count = 0
    reading: "Reading | None" = None

    @field_validator("protocol")
    @classmethod
    def _drop_pooled_queries(cls, protocol: dict[str, Any]) -> dict[str, Any]:
        """Drop the key `multi_query` of earlier versions, whose only supported value is false."""
        if protocol.get("multi_query", False) is not False:
            raise ValueError("protocol.multi_query: pooled queries are not supported; only false is valid")
        return {rule: value for rule, value in protocol.items() if rule != "multi_query"}


Phrases = Annotated[tuple[Text, ...], Field(max_length=100)]


class Reading(FrozenModel):
    """How the images and labels were understood; see `benchmark.data.reading.Reading`."""

    read: Phrases
    ignored: Phrases
    protocol: Phrases


class Network(FrozenModel):
    """The deployed network; `name` is for readers ("resnet26 64-128-256"), `weights` the hash of its tensors."""

    name: Text
    embedding: Positive
    cost: "Cost"
    weights: Sha256


class Cost(FrozenModel):
    """Cost of the deployed network: counted (parameters, macs, flops = 2 x macs) and measured (the rest).

    `latency_ms` is the median time per batch in milliseconds, by batch size ("1", "64"), and `latency_range_ms` the
    10th and 90th percentile of these times; the first records lack it. `image_size` is (height, width) in pixels;
    latency and peak memory were measured on `device` with `threads` threads.
    """

    parameters: Count
    macs: Count
    flops: Count
    image_size: tuple[Pixels, Pixels]
    latency_ms: dict[IntegerKey, NonNegative]
    latency_range_ms: dict[IntegerKey, tuple[NonNegative, NonNegative]] | None = None
    peak_memory_mb: NonNegative
    device: Text
    threads: Positive

    def unstable_range(self, batch: int) -> tuple[float, float] | None:
        """Return the range of latencies of a batch size in milliseconds if they differ by more than half.

        Then the machine was probably busy, and the median may be far from what the network needs. None if the latencies
        are stable or their range is not known.
        """
        low, high = (self.latency_range_ms or {}).get(str(batch), (0.0, 0.0))
        return (low, high) if high > _STABLE * low else None

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
    recall: ByK
    mAP_at_R: Fraction | None = None
    R_precision: Fraction | None = None
    precision: ByK = Field(default_factory=dict)
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
    asymmetric_reason: Text | None
    average_precision: PerQuery | None = None

    @field_validator("asymmetric_reason")
    @classmethod
    def _use_current_wording(cls, reason: str | None) -> str | None:
        return next((current for earlier, current in _EARLIER_REASONS if earlier.fullmatch(reason or "")), reason)

    @model_validator(mode="after")
    def _check_queries(self) -> Self:
        if self.average_precision is None:
            return self
        values = self.average_precision.array
        known = values[~np.isnan(values)]
        queries, skipped = len(values), len(values) - len(known)
        if (queries, skipped) != (self.symmetric.queries, self.symmetric.skipped):
            raise ValueError(
                f"average_precision covers {queries} queries, {skipped} of them skipped; expected "
                f"{self.symmetric.queries} and {self.symmetric.skipped}, as in symmetric"
            )
        if abs(float(known.sum()) / max(1, len(known)) - self.symmetric.mAP) > 1e-5:
            raise ValueError(f"the mean of average_precision is not the mAP, {self.symmetric.mAP}")
        return self


class TeacherReport(FrozenModel):
    """The teacher of a student; `record` is the id of its record, None for a checkpoint that came without one."""

    record: RecordId | None
    network: Text
    cost: Cost
    scores: Scores


class Savings(FrozenModel):
    """Saved cost as fractions of the teacher's cost; negative for a student larger than its teacher.

    The ceilings are the largest savings that the student's architecture allows; None for a method that does not
    compress.
    """

    parameters: Number
    macs: Number
    ceiling_parameters: Number | None
    ceiling_macs: Number | None


class DeployCheck(FrozenModel):
    """Largest difference between training-time and deployed embeddings over `images` real images."""

    max_abs_difference: NonNegative
    images: Count


class Budget(FrozenModel):
    """Cost that a compressed student was to reach; `target` and `reached` are fractions of the teacher's cost."""

    kind: Literal["macs", "parameters"]
    target: NonNegative
    reached: NonNegative
    met: Flag


class Environment(FrozenModel):
    """Software and hardware of the run; `precision` is of the training's autocast, evaluation uses float32."""

    python: Text
    torch: Text
    torchvision: Text
    timm: Text
    mmengine: Text
    numpy: Text
    platform: Text
    device: Text
    threads: Positive
    precision: Literal["float32", "bfloat16"]


class Timing(FrozenModel):
    """Wall-clock times in seconds."""

    train_seconds: NonNegative
    evaluate_seconds: NonNegative
