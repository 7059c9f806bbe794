"""The record of one run: everything a leaderboard shows, and everything needed to repeat the run."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from benchmark.errors import UserError
from benchmark.results.fields import (
    FrozenModel,
    Label,
    Name,
    Positive,
    RecordId,
    Seed,
    Sha256,
    Text,
    Time,
    Values,
    explain,
)
from benchmark.results.parts import (
    Budget,
    Data,
    DeployCheck,
    Environment,
    Export,
    Network,
    RuntimeLatency,
    Savings,
    ScoreReport,
    Selected,
    TeacherOutputs,
    TeacherReport,
    Timed,
    Timing,
)
from benchmark.retrieval.embedding_format import FLOAT32
from benchmark.utils import strict_json
from benchmark.utils.atomic import write_text
from benchmark.utils.escape import terminal
from benchmark.utils.names import check_page_name
from benchmark.utils.strict_json import shown

SCHEMA_VERSION: Final = 1
_LONGEST_BOARD = 120
"""Longest name of a leaderboard in bytes, so that names of files have less than 255."""


class Record(FrozenModel):
    """One run of one recipe with one seed. A leaderboard is a pure function of records.

    `id` is `Record.make_id(recipe_hash, role)`, `created` an ISO 8601 time in UTC, `commit` the suite's git commit.
    `variant` holds the non-default dataset options and evaluation settings by recipe key, such as
    `{"dataset.split": "closed"}`. `teacher`, `saved` and `budget` are None in the record of a teacher, and
    `selected` if the network of the last epoch was deployed. `more_teachers` are those after the first. `embedding` is
    the format in which the student's gallery was stored for the scores, see `benchmark.retrieval.EmbeddingFormat`, and
    `bytes_per_image` the size of a stored embedding; the first records, all of float32, lack both. `teacher_outputs`
    states that the views of the training images were fixed, and is None if every view was new. `exports` holds what
    `benchmark export` has measured, by format, such as "onnx" and "onnx-int8", and `latencies` what `benchmark latency`
    has measured, on any device and in any runtime.
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
    data: Data
    variant: Values = Field(default_factory=dict)
    network: Network
    teacher: TeacherReport | None
    more_teachers: Annotated[tuple[TeacherReport, ...], Field(max_length=100)] = ()
    scores: ScoreReport
    saved: Savings | None
    deploy: DeployCheck
    budget: Budget | None
    selected: Selected | None = None
    embedding: Text = str(FLOAT32)
    bytes_per_image: Positive | None = None
    teacher_outputs: TeacherOutputs | None = None
    environment: Environment
    timing: Timing
    exports: dict[Label, Export] = Field(default_factory=dict)
    latencies: Annotated[tuple[RuntimeLatency, ...], Field(max_length=100)] = ()

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
            parts += [value] if isinstance(value, str) else [key.rpartition(".")[2], json.dumps(value, sort_keys=True)]
        name = re.sub(r"[^\w.+-]+", "_", "-".join(parts)).strip("_")
        if len(name.encode()) <= _LONGEST_BOARD:
            return name
        digest = hashlib.sha256(json.dumps(self.variant, sort_keys=True).encode()).hexdigest()[:12]
        return f"{name.encode()[: _LONGEST_BOARD - 13].decode(errors='ignore')}-{digest}"

    @property
    def teachers(self) -> tuple[TeacherReport, ...]:
        """The teachers of a student, the first one first; none in the record of a teacher."""
        return () if self.teacher is None else (self.teacher, *self.more_teachers)

    def named_teachers(self) -> Iterator[tuple[str, TeacherReport]]:
        """Yield the field and the value of each teacher."""
        for number, teacher in enumerate(self.teachers):
            yield (f"more_teachers.{number - 1}" if number else "teacher"), teacher

    @property
    def gallery_bytes(self) -> int:
        """Bytes of the stored embedding of one gallery image."""
        return 4 * self.network.embedding if self.bytes_per_image is None else self.bytes_per_image

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
    def read(cls, path: Path, share: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> Self:
        """Read the record at `path`.

        Args:
            path: The file.
            share: Replaces parts of the content by equal ones of other records.

        Raises:
            UserError: The file cannot be read, is not JSON, has another schema version, or holds a wrong field.
        """
        place = terminal(str(path))
        try:
            content = strict_json.read(path)
        except OSError as error:
            raise UserError(f"{place}: cannot read the record: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{place}: not a record: {error}; restore the file or remove it") from error
        if not isinstance(content, dict):
            raise UserError(f"{place}: not a record: expected a JSON object; restore the file or remove it")
        _check_version(place, content.get("schema_version"))
        try:
            return cls.model_validate(content if share is None else share(content))
        except ValidationError as error:
            raise UserError(f"{place}: {explain(error)}") from error


def _check_version(place: str, version: object) -> None:
    """Reject a schema version that this release does not read, and name the remedy."""
    if version == SCHEMA_VERSION and type(version) is int:
        return
    if version is None:
        raise UserError(f"{place}: not a record: the field schema_version is missing")
    if type(version) is not int:  # True is an int, and 1.0 == 1
        raise UserError(f"{place}: not a record: schema_version must be an integer, not {shown(version)}")
    relation = "newer" if version > SCHEMA_VERSION else "older"
    remedy = "update the package" if version > SCHEMA_VERSION else "run its recipe again"
    raise UserError(
        f"{place}: schema_version {version} is {relation} than {SCHEMA_VERSION}, which this release reads; {remedy}"
    )


_NUMBERS = re.compile(r"\[\n[-+.\deE,\snul]*\]")
"""A list of numbers and nulls, as `json.dumps` indents it."""
# Fields that may differ between two runs of one recipe: when and where it ran, measured times and memory, and what was
# measured after the run.
_MEASURED = {*Timed.model_fields, "peak_memory_mb"}
_VARYING: dict[str, Any] = {
    "created": True,
    "commit": True,
    "timing": True,
    "exports": True,
    "latencies": True,
    "environment": True,
    "data": {"versions", "reading", "skipped"},  # files that are not used do not matter
    "network": {"cost": _MEASURED},
    "teacher": {"cost": _MEASURED},
    "more_teachers": {"__all__": {"cost": _MEASURED}},
    "teacher_outputs": {"seconds"},
}
