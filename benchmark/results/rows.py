"""Records of one configuration over seeds, as one row of a table."""

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from benchmark.results.record import Record
from benchmark.utils.recipe_hash import significant


@dataclass(frozen=True, slots=True)
class Statistic:
    """Mean and sample standard deviation (n - 1); `std` is None for a single value."""

    mean: float
    std: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The statistic of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    @classmethod
    def where_known(cls, values: Iterable[float | None]) -> Self | None:
        """The statistic of `values`, or None where one of them is missing: a mean over fewer seeds would mislead."""
        given = list(values)
        known = [value for value in given if value is not None]
        return cls.of(known) if known and len(known) == len(given) else None


TEACHER = "teacher"
BASELINE = "none"


@dataclass(frozen=True, slots=True)
class Row:
    """Runs that differ in nothing but the seed. `method` is "teacher" for teachers, whose `teacher` is None."""

    board: str
    method: str
    teacher: str | None
    records: tuple[Record, ...]
    """By seed."""

    @property
    def networks(self) -> list[str]:
        """Names of the networks made; more than one where the method's structure depends on the seed."""
        return list(dict.fromkeys(record.network.name for record in self.records))

    @property
    def devices(self) -> list[str]:
        """Where latency was measured, for example "cpu, 2 threads"."""
        return sorted({device_name(record) for record in self.records})

    @property
    def mAP(self) -> Statistic:
        """The student's own, symmetric mAP."""
        return Statistic.of([record.scores.symmetric.mAP for record in self.records])

    @property
    def macs(self) -> Statistic:
        """MACs of the deployed network."""
        return Statistic.of([record.network.cost.macs for record in self.records])

    @property
    def parameters(self) -> Statistic:
        """Parameters of the deployed network."""
        return Statistic.of([record.network.cost.parameters for record in self.records])

    @property
    def asymmetric_mAP(self) -> Statistic | None:
        """Student queries against the teacher's gallery; None where a record has none or a reason against it.

        The first versions scored methods to which it says nothing.
        """
        reports = [record.scores for record in self.records]
        return Statistic.where_known(
            scores.asymmetric.mAP if scores.asymmetric and not scores.asymmetric_reason else None for scores in reports
        )

    def recall(self, k: int) -> Statistic | None:
        """Recall@k, where every record has it."""
        return self.over(lambda record: record.scores.symmetric.recall.get(str(k)))

    def latency(self, batch: int) -> Statistic | None:
        """Milliseconds for a batch of this size; None where records were measured on different devices."""
        if len(self.devices) > 1:
            return None
        return self.over(lambda record: record.network.cost.latency_ms.get(str(batch)))

    def saved(self, field: str) -> Statistic | None:
        """A field of `Saved`, for example "macs" or "ceiling_macs"."""
        return self.over(lambda record: None if record.saved is None else getattr(record.saved, field))

    def over(self, figure: Callable[[Record], float | None]) -> Statistic | None:
        """Mean and deviation of any figure over the records; None where one of them lacks it."""
        return Statistic.where_known(map(figure, self.records))


def device_name(record: Record) -> str:
    """Where the record's latency and memory were measured."""
    cost = record.network.cost
    return f"{cost.device}, {cost.threads} thread{'' if cost.threads == 1 else 's'}"


def summarise(records: Iterable[Record]) -> list[Row]:
    """One row per board, method, teacher network, recipe (but for seeds) and data, in the order of a leaderboard.

    By board; the teacher first, then the student alone ("none"), then the other methods, best mean mAP first.
    """
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: (record.seed, record.id)):
        method = TEACHER if record.role == "teacher" else record.method
        teacher = record.teacher.network if record.teacher else ""
        # What cannot change a result, such as the number of workers, makes no row of its own.
        recipe = json.dumps(_without_seeds(significant(record.recipe)), sort_keys=True)
        data = f"{record.data.splits} {record.data.fingerprint} {record.data.broken}"
        groups.setdefault((record.board, method, teacher, recipe + data), []).append(record)
    rows = [
        Row(board, method, teacher or None, tuple(members)) for (board, method, teacher, _), members in groups.items()
    ]
    return sorted(
        rows, key=lambda row: (row.board, row.method != TEACHER, row.method != BASELINE, -row.mAP.mean, row.method)
    )


def _without_seeds(recipe: Any) -> Any:
    """The recipe without any seed: a teacher trained for one run carries its own."""
    if isinstance(recipe, dict):
        return {key: _without_seeds(value) for key, value in recipe.items() if key != "seed"}
    if isinstance(recipe, list):
        return [_without_seeds(value) for value in recipe]
    return recipe
