"""What a record is made of. All are immutable and refuse unknown fields, NaN and infinity."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0.0)]
Number = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]
"""A K or a batch size, as a key."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
USUAL_RULES: Mapping[str, Any] = {
    "average_precision": "rectangular",
    "tracks": False,
    "multi_query": False,
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
