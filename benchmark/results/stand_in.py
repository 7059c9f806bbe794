"""Lines of a leaderboard for teachers and `none`, which are always on it, while there is no record of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmark.results.formatting import one_line, percent, quantity
from benchmark.results.notes import Notes
from benchmark.results.record_parts import TeacherReport
from benchmark.results.run_command import run_command
from benchmark.results.statistic import Statistic
from benchmark.results.summary import BASELINE, TEACHER, Row


class StandIn(NamedTuple):
    """A line: its texts, and the numbers by which columns sort, by header. All else is not shown."""

    method: str
    texts: Mapping[str, str]
    numbers: Mapping[str, float]


def stand_ins(rows: Sequence[Row], ks: Sequence[int], notes: Notes) -> Iterator[StandIn]:
    """Teachers, the best first, each network as a record of a student of it describes it; `none`, and how it is run."""
    recorded = {record.id for row in rows if row.method == TEACHER for record in row.records}
    teachers: dict[str, tuple[TeacherReport, str]] = {}
    for record in (record for row in rows for record in row.records):
        if record.teacher is not None and record.teacher.record not in recorded:
            teachers.setdefault(record.teacher.network, (record.teacher, record.method))
    for teacher, student in sorted(teachers.values(), key=lambda pair: -pair[0].scores.mAP):
        yield _teacher(teacher, student, ks, notes)
    if BASELINE not in {row.method for row in rows}:
        mark = notes.mark(f"Not run yet: `{run_command(BASELINE, rows[0].records[0])}` adds it.")
        yield StandIn(BASELINE, {"method": f"`{BASELINE}`{mark}"}, {})


def _teacher(teacher: TeacherReport, student: str, ks: Sequence[int], notes: Notes) -> StandIn:
    shares = {"mAP": teacher.scores.mAP}
    shares |= {f"R@{k}": teacher.scores.recall[str(k)] for k in ks if str(k) in teacher.scores.recall}
    counts = {"parameters": teacher.cost.parameters, "MACs": teacher.cost.macs, "FLOPs": teacher.cost.flops}
    mark = notes.mark(f"There is no record of its own: this is what that of `{student}` says of it.")
    texts = {"method": f"{TEACHER}{mark}", "teacher": one_line(teacher.network)}
    texts |= {name: percent(Statistic(share)) for name, share in shares.items()}
    texts |= {name: quantity(Statistic(amount)) for name, amount in counts.items()}
    return StandIn(TEACHER, texts, shares | counts)
