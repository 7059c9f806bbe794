"""A leaderboard before it is written in any format."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmark.results.comparison import Gain, mean_ranks
from benchmark.results.equal_cost import cost_groups
from benchmark.results.format import MISSING, Figure, Grid, Notes, cells, figures, headers, one_line, percent, quantity
from benchmark.results.record import Record, TeacherReport
from benchmark.results.rows import BASELINE, TEACHER, Row, Statistic
from benchmark.results.step_costs import StepCosts


def run_command(method: str, record: Record) -> str:
    """The command that runs a method, first seed, by the default recipe on the leaderboard that a record is on."""
    options = "".join(f" --set {_setting(key, value)}" for key, value in sorted(record.variant.items()))
    return f"benchmark run --method {method} --dataset {record.dataset}{options} --seed 0"


def _setting(key: str, value: object) -> str:
    return shlex.quote(f"{key}={value if isinstance(value, str) else json.dumps(value)}")


class PlaceholderRow(NamedTuple):
    """A line: its texts, and the numbers by which columns sort, by header. All else is not shown."""

    method: str
    texts: Mapping[str, str]
    numbers: Mapping[str, float]


def placeholder_rows(rows: Sequence[Row], ks: Sequence[int], notes: Notes) -> Iterator[PlaceholderRow]:
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
        yield PlaceholderRow(BASELINE, {"method": f"`{BASELINE}`{mark}"}, {})


def _teacher(teacher: TeacherReport, student: str, ks: Sequence[int], notes: Notes) -> PlaceholderRow:
    shares = {"mAP": teacher.scores.mAP}
    shares |= {f"R@{k}": teacher.scores.recall[str(k)] for k in ks if str(k) in teacher.scores.recall}
    counts = {"parameters": teacher.cost.parameters, "MACs": teacher.cost.macs, "FLOPs": teacher.cost.flops}
    mark = notes.mark(f"There is no record of its own: this is what that of `{student}` says of it.")
    texts = {"method": f"{TEACHER}{mark}", "teacher": one_line(teacher.network)}
    texts |= {name: percent(Statistic(share)) for name, share in shares.items()}
    texts |= {name: quantity(Statistic(amount)) for name, amount in counts.items()}
    return PlaceholderRow(TEACHER, texts, shares | counts)


RANK = "mean rank"
OVERVIEW_CAPTION = "mAP / R@1 / MACs of the deployed network; scores in percent, mean ± standard deviation over seeds."


def overview(datasets: Sequence[Sequence[Row]]) -> Grid:
    """A row per method: the teacher, `none`, the others by name; a column per dataset, and the mean rank."""
    methods = sorted(
        {row.method for rows in datasets for row in rows}, key=lambda name: (name != TEACHER, name != BASELINE, name)
    )
    ranks = mean_ranks(datasets)
    cells = [
        [
            method if method == TEACHER else f"`{method}`",
            *(_cell(rows, method) for rows in datasets),
            f"{ranks[method]:.1f}" if method in ranks else MISSING,
        ]
        for method in methods
    ]
    names = [rows[0].board for rows in datasets]
    numbers = {rows[0].board: [_best(rows, method) for method in methods] for rows in datasets}
    return Grid(["method", *names, RANK], methods, cells, numbers | {RANK: [ranks.get(method) for method in methods]})


def _cell(rows: Sequence[Row], method: str) -> str:
    """A line for each of the method's rows on a dataset."""
    lines = [
        f"{percent(row.mAP)} / {percent(row.recall(1))} / {quantity(row.macs)}" for row in rows if row.method == method
    ]
    return "<br>".join(lines) or MISSING


def _best(rows: Sequence[Row], method: str) -> float | None:
    return max((row.mAP.mean for row in rows if row.method == method), default=None)


class Board:
    """The rows of one board, what each gains over others, and the table that pages show.

    All rows are compared to those of no distillation and of their teacher: `gains` is what each row gains over them, by
    method, and `compared` the methods over which any gain is known. `groups` are those of equal cost.
    `grid` is the table, in which the teacher and `none` always have a line, and `notes` what is said below it;
    `figures` are the numbers in it.

    Args:
        rows: Of one board, in order.
        costs: What a training step of their methods costs.
    """

    def __init__(self, rows: Sequence[Row], costs: StepCosts | None) -> None:
        self.name = rows[0].board
        self.rows = rows
        self.costs = costs
        self.devices = sorted({device for row in rows for device in row.devices})
        self.gains = {method: [self._gain(method, row) for row in rows] for method in (BASELINE, TEACHER)}
        self.compared = [method for method, gains in self.gains.items() if any(gains)]
        self.groups = cost_groups(rows)
        ks = sorted({int(k) for row in rows for record in row.records for k in record.scores.symmetric.recall})
        self.figures: list[Figure] = figures(ks, costs)
        self.notes = Notes()
        absents = list(placeholder_rows(rows, ks, self.notes))
        one_device = len(self.devices) == 1
        table = [
            cells(row, ks, self.notes, one_device, costs, [self.gains[method][index] for method in self.compared])
            for index, row in enumerate(rows)
        ]
        self._mark_other_teachers(table)
        names = headers(ks, costs, [_gain_header(method) for method in self.compared])
        methods, numbers = [row.method for row in rows], self._numbers()
        for absent in absents:
            place = methods.count(TEACHER)  # nothing stands before the teacher, and only that before `none`
            methods.insert(place, absent.method)
            table.insert(place, [absent.texts.get(name, MISSING) for name in names])
            for name, column in numbers.items():
                column.insert(place, absent.numbers.get(name))
        self.grid = Grid(names, methods, table, numbers)

    def reference(self, method: str, row: Row) -> Row | None:
        """The row of a method to which another row is compared; of teachers, only its own."""
        rows = [other for other in self.rows if other.method == method]
        if not rows or row.method == method:
            return None
        if method == BASELINE:
            return rows[0]
        own = {record.teacher.record for record in row.records if record.teacher is not None}
        return next((other for other in rows if own & {record.id for record in other.records}), None)

    def _gain(self, method: str, row: Row) -> Gain | None:
        reference = self.reference(method, row)
        return None if reference is None else Gain.of(row, reference)

    def _numbers(self) -> dict[str, list[float | None]]:
        """By which columns sort."""
        numbers: dict[str, list[float | None]] = {}
        for figure in self.figures:
            if figure.header is not None:
                numbers[figure.header] = [_mean(figure.of(row)) for row in self.rows]
        for method in self.compared:
            numbers[_gain_header(method)] = [_mean(gain) for gain in self.gains[method]]
        return numbers

    def _mark_other_teachers(self, table: Sequence[list[str]]) -> None:
        """A note on students of another training of the teacher's recipe than the one whose record the board shows.

        Two trainings of one recipe agree bit for bit on one machine with as many threads, and roughly on others.
        """
        shown = {
            record.id: record.scores.symmetric.mAP
            for row in self.rows
            if row.method == TEACHER
            for record in row.records
        }
        for row, cells_ in zip(self.rows, table, strict=True):
            others: dict[str, list[str]] = {}
            for record in row.records:
                teacher = record.teacher
                if teacher and abs(shown.get(teacher.record or "", teacher.scores.mAP) - teacher.scores.mAP) > 5e-4:
                    others.setdefault(f"{100 * teacher.scores.mAP:.1f} % mAP", []).append(str(record.seed))
            for mAP, seeds in others.items():
                which = f"Seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
                cells_[1] += self.notes.mark(f"{which}: another training of this teacher's recipe, with {mAP}.")


def _gain_header(method: str) -> str:
    """The header of the gains over the method's row."""
    return f"mAP against {method if method == TEACHER else f'`{method}`'}"


def _mean(value: Statistic | Gain | None) -> float | None:
    return None if value is None else value.mean
