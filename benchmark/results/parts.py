"""The parts of a record."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from benchmark.results.fields import (
    ByK,
    Count,
    Flag,
    Fraction,
    FrozenModel,
    IntegerKey,
    Label,
    Latency,
    NonNegative,
    Number,
    PerQuery,
    Pixels,
    Positive,
    RecordId,
    Sha256,
    Text,
    Time,
    Values,
)

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

_STABLE_SPREAD = 0.2
"""Largest difference between the quartiles of stable latencies, as a fraction of the median."""
_STABLE_RATIO = 1.5
"""Largest ratio of the 90th to the 10th percentile of stable latencies whose quartiles are not known."""
BUSY = 0.5
"""Number of processor cores used by other processes from which a measurement is marked."""

Phrases = Annotated[tuple[Text, ...], Field(max_length=100)]


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


class Timed(FrozenModel):
    """Latencies of a network, measured on `device` with `threads` threads.

    `latency_ms` is the median time per batch in milliseconds, by batch size ("1", "64"), `latency_range_ms` the 10th
    and 90th percentile of these times, and `latency_quartiles_ms` their quartiles. `load` is the mean number of
    processor cores that other processes used in the meantime. The first records lack range, quartiles and load.
    """

    latency_ms: dict[IntegerKey, Latency]
    latency_range_ms: dict[IntegerKey, tuple[Latency, Latency]] | None = None
    latency_quartiles_ms: dict[IntegerKey, tuple[Latency, Latency]] | None = None
    load: NonNegative | None = None
    device: Text
    threads: Positive

    def unstable_range(self, batch: int) -> tuple[float, float] | None:
        """Return the range of latencies of a batch size in milliseconds if they differ too much to be compared.

        That is, their quartiles differ by more than 20 % of the median or, if the quartiles are not known, their 10th
        and 90th percentile by half. Then the machine was probably busy, and the median may be far from what the network
        needs. None if the latencies are stable or their range is not known.
        """
        key = str(batch)
        limits, quartiles = (self.latency_range_ms or {}).get(key), (self.latency_quartiles_ms or {}).get(key)
        if limits is None:
            return None
        if quartiles is None:
            return limits if limits[1] > _STABLE_RATIO * limits[0] else None
        return limits if quartiles[1] - quartiles[0] > _STABLE_SPREAD * self.latency_ms.get(key, 0.0) else None

    @property
    def measured_on(self) -> str:
        """Where the latencies were measured, such as "cpu, 2 threads"."""
        return f"{self.device}, {self.threads} thread{'' if self.threads == 1 else 's'}"


class Cost(Timed):
    """Cost of the deployed network: counted (parameters, macs, flops = 2 x macs) and measured (the rest).

    `image_size` is (height, width) in pixels. Peak memory was measured on the device of the latencies.
    """

    parameters: Count
    macs: Count
    flops: Count
    image_size: tuple[Pixels, Pixels]
    peak_memory_mb: NonNegative


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
    """A teacher of a student; `record` is the id of its record, None for a checkpoint that came without one."""

    record: RecordId | None
    network: Text
    cost: Cost
    scores: Scores


class Savings(FrozenModel):
    """Saved cost as fractions of the cost of the (first) teacher; negative for a student larger than its teacher.

    The ceilings are the largest savings that the student's architecture allows; None for a method that does not
    compress. The reset ceilings are those of the gradient resetting of CDD, without rows that the lasso alone removes;
    None for other methods, and in the first records.
    """

    parameters: Number
    macs: Number
    ceiling_parameters: Number | None
    ceiling_macs: Number | None
    reset_ceiling_parameters: Number | None = None
    reset_ceiling_macs: Number | None = None


class DeployCheck(FrozenModel):
    """Largest difference between training-time and deployed embeddings over `images` real images."""

    max_abs_difference: NonNegative
    images: Count


class Export(Timed):
    """The student in another runtime.

    `runtime` is the name and version of the package that executed it; `bytes` is the size of the files. `preprocessing`
    is "inside" if the exported network normalizes pixels; `precision` is that of its computations. The largest
    difference between its embeddings and those of PyTorch, both of unit length, over all `images` of the test set is
    `max_abs_difference`. The latencies include the normalization of pixels.
    """

    runtime: Text
    preprocessing: Literal["inside", "outside"]
    precision: Literal["float32", "int8"] = "float32"
    bytes: Count
    images: Count
    max_abs_difference: NonNegative
    mAP: Fraction


class RuntimeLatency(Timed):
    """Latencies of the student that `benchmark latency` has measured.

    `runtime` is "pytorch" or the format of an export, and `version` the name and version of the package that executed
    it.
    """

    runtime: Label
    version: Text
    created: Time


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
    processes: Positive = 1
    precision: Literal["float32", "bfloat16", "float16"]


class Selected(FrozenModel):
    """The epoch whose network was deployed: of all epochs that were validated, it has the highest `mAP`, a fraction."""

    epoch: Positive
    mAP: Fraction


class TeacherOutputs(FrozenModel):
    """Outputs of the teacher that were computed once for all runs, for `views` fixed augmentations of every image.

    `forward_passes` counts the images that the teacher has embedded for it, `bytes` is the size of the outputs, and
    `seconds` the time of the computation, in whichever run. The training has embedded no image with the teacher.
    """

    views: Positive
    forward_passes: Count
    bytes: Count
    seconds: NonNegative

    @property
    def title(self) -> str:
        """A text for readers, such as "8 fixed views"."""
        return f"{self.views} fixed view{'' if self.views == 1 else 's'}"


class Timing(FrozenModel):
    """Wall-clock times in seconds."""

    train_seconds: NonNegative
    evaluate_seconds: NonNegative
