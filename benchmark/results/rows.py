"""Rows of a leaderboard: records that differ only in their seeds, with the statistics over them."""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from benchmark.results.record import Record
from benchmark.retrieval.embedding_format import FLOAT32
from benchmark.utils.recipe_hash import significant

TEACHER = "teacher"
"""The method name of rows of teachers."""
BASELINE = "none"
"""The method that trains the student without a teacher."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """Mean and sample standard deviation (n - 1); `std` is None for a single value."""

    mean: float
    std: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return the statistic of one or more values."""
        first, count = values[0], len(values)
        if all(value == first for value in values):  # no rounding: a deviation of zero is not shown
            return cls(float(first), 0.0 if count > 1 else None)
        mean = math.fsum(values) / count
        return cls(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1)))

    @classmethod
    def if_complete(cls, values: Iterable[float | None]) -> Self | None:
        """Return the statistic of `values`, or None if one is missing: a mean over fewer seeds would mislead."""
        values = list(values)
        known = [value for value in values if value is not None]
        return cls.of(known) if known and len(known) == len(values) else None


@dataclass(frozen=True, eq=False)
class Row:
    """Records that differ only in their seeds. Rows compare by identity.

    Attributes:
        board: Name of the leaderboard.
        method: Name of the method, or "teacher" for teachers.
        teacher: Names of the teachers' networks, joined by "+"; None for teachers.
        records: The records, by seed.
    """

    board: str
    method: str
    teacher: str | None
    records: tuple[Record, ...]

    @property
    def budget(self) -> float | None:
        """MACs of the student as a fraction of the teacher's, as its recipe requests; None if it requests none."""
        budget = self.records[0].recipe.get("budget")
        return float(budget) if isinstance(budget, int | float) and not isinstance(budget, bool) else None

    @property
    def tuned(self) -> bool:
        """Whether the method has arguments that `benchmark tune` chose."""
        return self.method != TEACHER and self.records[0].recipe.get("settings", {}).get("source") == "tuned"

    @property
    def embedding(self) -> str:
        """The format in which the gallery is stored, such as "int8"."""
        return self.records[0].embedding

    @property
    def fixed_views(self) -> str:
        """The number of fixed views of every training image, such as "8 fixed views"; empty if all views were new."""
        outputs = self.records[0].teacher_outputs
        return outputs.title if outputs else ""

    @property
    def label(self) -> str:
        """The name in plots: the method's, followed by `distinction`."""
        return " ".join([self.method, *self.distinction])

    @property
    def distinction(self) -> list[str]:
        """What distinguishes the row from those of its method: "tuned" arguments, another format, fixed views."""
        other_format = [self.embedding] if self.embedding != str(FLOAT32) else []
        return ["tuned"] * self.tuned + other_format + ([self.fixed_views] if self.fixed_views else [])

    @cached_property
    def networks(self) -> list[str]:
        """Names of the deployed networks; more than one if the method's structure depends on the seed."""
        return list(dict.fromkeys(record.network.name for record in self.records))

    @cached_property
    def devices(self) -> list[str]:
        """Where latency was measured, such as "cpu, 2 threads"."""
        return sorted({record.network.cost.measured_on for record in self.records})

    @cached_property
    def mAP(self) -> Statistic:
        """Symmetric mAP: student queries on the student's gallery."""
        return Statistic.of([record.scores.symmetric.mAP for record in self.records])

    @cached_property
    def macs(self) -> Statistic:
        """MACs of the deployed network."""
        return Statistic.of([record.network.cost.macs for record in self.records])

    @cached_property
    def parameters(self) -> Statistic:
        """Parameters of the deployed network."""
        return Statistic.of([record.network.cost.parameters for record in self.records])

    @cached_property
    def flops(self) -> Statistic:
        """FLOPs of the deployed network."""
        return Statistic.of([record.network.cost.flops for record in self.records])

    @cached_property
    def bytes_per_image(self) -> Statistic:
        """Bytes of the stored embedding of one gallery image."""
        return Statistic.of([record.gallery_bytes for record in self.records])

    @cached_property
    def asymmetric_mAP(self) -> Statistic | None:
        """mAP of student queries on the teacher's gallery; None if a record has none, or a reason not to show it."""
        # Records of the first versions hold asymmetric scores of methods for which they are not meaningful.
        reports = [record.scores for record in self.records]
        return Statistic.if_complete(
            scores.asymmetric.mAP if scores.asymmetric and not scores.asymmetric_reason else None for scores in reports
        )

    @property
    def per_query(self) -> NDArray[np.float64] | None:
        """(Q,) average precisions averaged over the seeds, NaN for queries that do not count; None if unknown."""
        lists = [record.scores.average_precision for record in self.records]
        known = [values.array for values in lists if values is not None]
        if len(known) < len(lists) or len({len(values) for values in known}) != 1:
            return None
        return known[0] if len(known) == 1 else np.mean(known, axis=0)

    @cached_property
    def images(self) -> tuple[object, ...]:
        """What identifies the images of the records: two rows on the same images have equal values."""
        data = self.records[0].data
        return (data.fingerprint, data.broken, *sorted((name, *split) for name, split in data.splits.items()))

    @cached_property
    def counted(self) -> tuple[int, bytes] | None:
        """Number of queries, and which of them count, as bits; None if their scores are unknown."""
        values = self.per_query
        return None if values is None else (len(values), np.packbits(~np.isnan(values)).tobytes())

    def recall(self, k: int) -> Statistic | None:
        """Return Recall@k."""
        return self.statistic(lambda record: record.scores.symmetric.recall.get(str(k)))

    def latency(self, batch: int) -> Statistic | None:
        """Return milliseconds per batch of this size; None for records that were measured on different devices."""
        if len(self.devices) > 1:
            return None
        return self.statistic(lambda record: record.network.cost.latency_ms.get(str(batch)))

    def stable_latency(self, batch: int) -> Statistic | None:
        """Return the latency if it can be compared: None if the times of a record spread too much."""
        stable = all(record.network.cost.unstable_range(batch) is None for record in self.records)
        return self.latency(batch) if stable else None

    def saved(self, field: str) -> Statistic | None:
        """Return a field of `Savings`, such as "macs" or "ceiling_macs"."""
        return self.statistic(lambda record: None if record.saved is None else getattr(record.saved, field))

    def statistic(self, value: Callable[[Record], float | None]) -> Statistic | None:
        """Return mean and deviation of a value over the records; None if a record lacks it."""
        return Statistic.if_complete(map(value, self.records))


def group_records(records: Iterable[Record]) -> list[Row]:
    """Group records that agree in board, method, teacher networks, recipe (except seeds) and data into rows.

    Records of one benchmark on different images, or with different teachers, are on different boards: those of the
    images, and of the set of teachers, with the most records have the benchmark's name, the others add a hash to it.

    Rows are in the order of a leaderboard: by board, and on each the teachers first, then the student alone ("none"),
    then the other methods by descending mean mAP.
    """
    records = sorted(records, key=lambda record: (record.seed, record.id))
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    digests: dict[tuple[Any, ...], str] = {}
    for record, board in zip(records, _boards(records), strict=True):
        method = TEACHER if record.role == "teacher" else record.method
        teacher = " + ".join(each.network for each in record.teachers)
        # The equal parts of many records are often the same objects: see `benchmark.results.store`.
        parts = (id(record.data), *((name, id(part)) for name, part in record.recipe.items() if name != "seed"))
        if parts not in digests:
            digests[parts] = _digest(record)
        groups.setdefault((board, method, teacher, digests[parts]), []).append(record)
    rows = [
        Row(board, method, teacher or None, tuple(members)) for (board, method, teacher, _), members in groups.items()
    ]
    return sorted(
        rows, key=lambda row: (row.board, row.method != TEACHER, row.method != BASELINE, -row.mAP.mean, row.method)
    )


def _digest(record: Record) -> str:
    """Return a hash of the recipe, except seeds, and of the data of a record."""
    # Settings that cannot change a result, such as the number of workers, do not separate rows.
    recipe = json.dumps(_without_seeds(significant(record.recipe)), sort_keys=True)
    data = f"{record.data.splits} {record.data.fingerprint} {record.data.broken}"
    return hashlib.sha256((recipe + data).encode()).hexdigest()


class _BoardKey(NamedTuple):
    """What the records of a leaderboard have in common."""

    board: str
    images: str | None
    """Fingerprint of the images; None if it is unknown."""
    teacher: str
    """Hash of what records state about the teachers."""


def _boards(records: Sequence[Record]) -> list[str]:
    """Return the name of each record's leaderboard."""
    names = _images_boards(records)
    keys = [_board_key(record) for record in records]
    students = Counter(key for key, record in zip(keys, records, strict=True) if record.teacher is not None)
    with_students: dict[tuple[str, str | None], list[str]] = {}
    for key in sorted(students, key=lambda key: (-students[key], key.teacher)):
        with_students.setdefault((key.board, key.images), []).append(key.teacher)
    boards = []
    for key in keys:
        name = names[key.board, key.images]
        others = with_students.get((key.board, key.images), [])[1:]
        boards.append(f"{name}-teacher-{key.teacher}" if key.teacher in others else name)
    return boards


def _board_key(record: Record) -> _BoardKey:
    known = [(teacher.record or teacher.network, teacher.scores.mAP) for teacher in record.teachers]
    facts = sorted(known) if len(known) > 1 else [*known, (record.id, record.scores.symmetric.mAP)][0]
    return _BoardKey(record.board, record.data.fingerprint, hashlib.sha256(repr(facts).encode()).hexdigest()[:8])


def _images_boards(records: Iterable[Record]) -> dict[tuple[str, str | None], str]:
    """Return the leaderboard of each pair of a record's `board` and its images' fingerprint."""
    counts = Counter((record.board, record.data.fingerprint) for record in records)
    names: dict[tuple[str, str | None], str] = {}
    known: set[str] = set()
    # Images with the most records first; unknown ones last.
    for board, images in sorted(counts, key=lambda key: (key[1] is None, -counts[key], key[1] or "")):
        suffix = re.sub(r"\W", "_", images or "unknown")[:8]  # a fingerprint in a record may be any text
        names[board, images] = f"{board}-data-{suffix}" if board in known else board
        known.add(board)
    return names


def _without_seeds(recipe: Any) -> Any:
    """Return the recipe without any `seed`, at any depth: a teacher trained for one run has its own seed."""
    if isinstance(recipe, dict):
        return {key: _without_seeds(value) for key, value in recipe.items() if key != "seed"}
    if isinstance(recipe, list):
        return [_without_seeds(value) for value in recipe]
    return recipe
