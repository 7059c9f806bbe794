"""A leaderboard before it is written in any format."""

from collections.abc import Sequence

from benchmark.results.columns import cells, headers
from benchmark.results.equal_cost import cost_groups
from benchmark.results.figure import Figure, figures
from benchmark.results.formatting import MISSING
from benchmark.results.gain import Gain
from benchmark.results.grid import Grid
from benchmark.results.notes import Notes
from benchmark.results.stand_in import stand_ins
from benchmark.results.statistic import Statistic
from benchmark.results.step_costs import StepCosts
from benchmark.results.summary import BASELINE, TEACHER, Row


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
        absents = list(stand_ins(rows, ks, self.notes))
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
