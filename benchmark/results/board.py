"""A leaderboard as tables, before it is written in any format."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from benchmark.results.budgets import curves
from benchmark.results.columns import columns, method_name, metrics, row_name
from benchmark.results.comparison import CostGroup, Gain, compared, equal_cost, gains, mean_ranks
from benchmark.results.format import MISSING, Cell, Notes, Table, TableRow, difference, percent, quantity
from benchmark.results.inference import SeedSpread
from benchmark.results.parts import NONSTANDARD, TeacherReport
from benchmark.results.record import Record
from benchmark.results.rows import BASELINE, TEACHER, Row, Statistic
from benchmark.results.step_costs import StepCosts
from benchmark.results.tuned import published_rows
from benchmark.utils.escape import markdown, markdown_code

_MAX_KS = 20
"""Largest number of K of Recall@K that a leaderboard shows: the most frequent ones."""


class Board:
    """The rows of one leaderboard, their gains over reference rows, and the table that pages show.

    Every row is compared with the student trained alone and with its teacher.

    Attributes:
        name: Name of the leaderboard.
        rows: The rows, in order.
        costs: Measured costs of a training step, if known.
        devices: The devices on which latency was measured.
        references: The reference methods for which the gain of at least one row is known.
        groups: The groups of rows of equal cost.
        curves: The methods that have rows at several budgets.
        published: The row with published arguments of each tuned row that has one.
        tuning_gains: The gains of tuned rows over published ones, as far as they are known.
        metrics: The numbers that the CSV file lists for every row.
        table: The table. It always has a row for the teacher and for the student trained alone.
        notes: The notes below the table.
    """

    def __init__(self, rows: Sequence[Row], costs: StepCosts | None) -> None:
        self.name = rows[0].board
        self.rows = rows
        self.costs = costs
        self.devices = sorted({device for row in rows for device in row.devices})
        self._teacher_rows = {record.id: row for row in rows if row.method == TEACHER for record in row.records}
        self._place = {row: number for number, row in enumerate(rows)}
        self._baselines = {(row.budget, row.embedding): row for row in reversed(rows) if row.method == BASELINE}
        self.curves = curves(rows)
        self.published = published_rows(rows)
        groups = equal_cost(rows)
        against = {
            method: {row: other for row in rows if (other := self.reference(method, row))}
            for method in (BASELINE, TEACHER)
        }
        pairs = [pair for of_method in against.values() for pair in of_method.items()]
        spread = SeedSpread(rows)
        of_tuning = list(self.published.items())
        found = gains([*pairs, *of_tuning, *(pair for group in groups for pair in compared(group))], spread)
        self.tuning_gains = {pair: found[pair] for pair in of_tuning if pair in found}
        self._gains = {
            method: {row: found.get((row, other)) for row, other in of_method.items()}
            for method, of_method in against.items()
        }
        self.groups = [CostGroup.of(group, found, spread) for group in groups]
        self.references = [
            method for method in (BASELINE, TEACHER) if any(self.gain(method, row) is not None for row in rows)
        ]
        counts = Counter(int(k) for row in rows for record in row.records for k in record.scores.symmetric.recall)
        ks = sorted(k for k, _ in counts.most_common(_MAX_KS))
        self.metrics = metrics(ks, costs)
        self.notes = Notes()
        self.table = self._table(ks)

    def reference(self, method: str, row: Row) -> Row | None:
        """Return the row of `method` that a row is compared with.

        It has the same teacher, of several the one that is listed first, or the same budget and the same format of
        embeddings. None if there is no such row, or the row itself is of this method.
        """
        if row.method == method:
            return None
        if method == BASELINE:
            return self._baselines.get((row.budget, row.embedding), self._baselines.get((None, row.embedding)))
        own = [teacher.record for record in row.records for teacher in record.teachers]
        known = {self._teacher_rows[each] for each in own if each in self._teacher_rows}
        return min(known, key=self._place.__getitem__, default=None)

    def gain(self, method: str, row: Row) -> Gain | None:
        """Return the gain of a row over its reference row of `method`; None if it is not known."""
        return self._gains[method].get(row)

    def _table(self, ks: Sequence[int]) -> Table:
        placeholders = list(_placeholders(self.rows, ks, self.notes))  # first, so that their notes come first
        shown = columns(
            ks,
            self.costs,
            gains={method: partial(self.gain, method) for method in self.references},
            one_device=len(self.devices) == 1,
            notes=self.notes,
        )
        table = [TableRow(row.method, [column.cell(row) for column in shown]) for row in self.rows]
        for method, cells in placeholders:
            place = sum(row.method == TEACHER for row in table)  # after the teachers, in the order of a leaderboard
            table.insert(place, TableRow(method, [cells.get(column.header, Cell(MISSING)) for column in shown]))
        return Table([column.header for column in shown], table, {column.header for column in shown if column.numeric})


class _Placeholder(NamedTuple):
    """A row without a record: its method, and the cells that are known, by header."""

    method: str
    cells: dict[str, Cell]


def _placeholders(rows: Sequence[Row], ks: Sequence[int], notes: Notes) -> Iterator[_Placeholder]:
    """Yield rows for teachers that only the records of their students describe, and for `none` without a record."""
    recorded = {record.id for row in rows if row.method == TEACHER for record in row.records}
    teachers: dict[str, tuple[TeacherReport, str]] = {}
    for record in (record for row in rows for record in row.records):
        for teacher in record.teachers:
            if teacher.record not in recorded:
                teachers.setdefault(teacher.record or teacher.network, (teacher, record.method))
    for teacher, student in sorted(teachers.values(), key=lambda pair: -pair[0].scores.mAP):
        yield _Placeholder(TEACHER, _teacher_cells(teacher, student, ks, notes))
    if BASELINE not in {row.method for row in rows}:
        note = notes.number(f"Not run yet; {markdown_code(run_command(BASELINE, rows[0].records[0]))} adds it.")
        yield _Placeholder(BASELINE, {"method": Cell(method_name(BASELINE), (note,))})


def _teacher_cells(teacher: TeacherReport, student: str, ks: Sequence[int], notes: Notes) -> dict[str, Cell]:
    note = notes.number(f"This teacher has no record; its values are from the record of {method_name(student)}.")
    fractions = {"mAP": teacher.scores.mAP}
    fractions |= {f"R@{k}": teacher.scores.recall[str(k)] for k in ks if str(k) in teacher.scores.recall}
    counts = {"parameters": teacher.cost.parameters, "MACs": teacher.cost.macs, "FLOPs": teacher.cost.flops}
    return {
        "method": Cell(TEACHER, (note,)),
        "teacher": Cell(markdown(teacher.network)),
        **{header: Cell.of(Statistic(value), percent) for header, value in fractions.items()},
        **{header: Cell.of(Statistic(value), quantity) for header, value in counts.items()},
    }


def run_command(method: str, record: Record) -> str:
    """Return the command that runs a method by its default recipe, with seed 0, on the leaderboard of a record."""
    settings = {key: value for key, value in sorted(record.variant.items()) if key not in NONSTANDARD}
    options = "".join(f" --set {_setting(key, value)}" for key, value in settings.items())
    return f"benchmark run --method {method} --dataset {record.dataset}{options} --seed 0"


def _setting(key: str, value: object) -> str:
    return shlex.quote(f"{key}={value if isinstance(value, str) else json.dumps(value)}")


def plot_description(board: Board) -> str:
    """Return the alternative text of the board's plot, as Markdown."""
    return f"mAP against MACs of every method on {markdown(board.name)}"


def caption(board: Board) -> str:
    """Explain the numbers of a board: units, devices, and the comparison between rows."""
    devices = [markdown(device) for device in board.devices]
    parts = [
        "mAP, R@K and saved are in percent. Values are mean ± standard deviation over the seeds, which link to their "
        "records.",
        f"Latency was measured on {devices[0] if len(devices) == 1 else 'the device that the note of each row names'}.",
    ]
    if costs := board.costs:
        threads = f"{costs.threads} thread{'' if costs.threads == 1 else 's'}"
        parts.append(f"Training steps were measured with {costs.batch} images on {markdown(costs.device)}, {threads}.")
    if board.references:
        parts.append(
            "Differences of mAP are in points, with a 95 % confidence interval for other queries and other seeds. ≈ "
            "marks a difference that is not significant; at most 5 % of the others are expected to be due to chance."
        )
    return " ".join(parts)


OVERVIEW_CAPTION = (
    "Each cell: mAP / R@1 / MACs of the deployed network. Scores are in percent; values are mean ± standard deviation "
    "over the seeds."
)


def overview(datasets: Sequence[Sequence[Row]]) -> Table:
    """Return the table over all datasets: a row per method, a column per dataset, and the mean rank.

    The teacher comes first, then `none`, then the other methods by name.
    """
    of_methods: list[dict[str, list[Row]]] = []
    for rows in datasets:
        of_methods.append({})
        for row in rows:
            of_methods[-1].setdefault(row.label, []).append(row)
    methods = sorted(set().union(*of_methods), key=lambda name: (name != TEACHER, name != BASELINE, name))
    ranks = mean_ranks(datasets)
    table = []
    for method in methods:
        rank = Cell(f"{ranks[method]:.1f}", sort_key=ranks[method]) if method in ranks else Cell(MISSING)
        of_datasets = [_summary_cell(rows.get(method, [])) for rows in of_methods]
        table.append(TableRow(method, [Cell(method_name(method)), *of_datasets, rank]))
    numeric = [*(markdown(rows[0].board) for rows in datasets), "mean rank"]
    return Table(["method", *numeric], table, numeric)


def _summary_cell(rows: Sequence[Row]) -> Cell:
    """Show the scores and the MACs of one method on one dataset, on one line per row."""
    lines = [f"{percent(row.mAP)} / {percent(row.recall(1))} / {quantity(row.macs)}" for row in rows]
    return Cell("\n".join(lines) or MISSING, sort_key=max((row.mAP.mean for row in rows), default=None))


def equal_cost_caption(groups: Sequence[CostGroup]) -> str:
    """Explain the tables of equal cost."""
    caption = "The MACs of the networks of a group lie within 5 % of each other."
    if any(group.ranks for group in groups):
        caption += (
            " Differences from the best mAP are in points, with a 95 % confidence interval for other queries and other "
            "seeds, which is also stated for the rank. Methods that share a letter do not differ significantly."
        )
    return caption


def agreement_text(group: CostGroup) -> str:
    """Say how well the rankings by different seeds agree; "" if it is not known."""
    if group.agreement is None:
        return ""
    return f"Rankings by two halves of the seeds agree with a Kendall's tau of {group.agreement:.2f}, on average."


def cost_range(group: CostGroup) -> str:
    """Return the least and the most MACs of a group: "13.6 M to 13.7 M MACs"."""
    macs = [row.macs.mean for row in group.rows]
    limits = [quantity(Statistic(limit)) for limit in (min(macs), max(macs))]
    return f"{' to '.join(dict.fromkeys(limits))} MACs"


def equal_cost_table(groups: Sequence[CostGroup]) -> Table:
    """Return the rows of groups of equal cost in one table; with several groups, a column names each row's group."""
    several = len(groups) > 1
    ranked = any(group.ranks for group in groups)
    table = []
    for number, group in enumerate(groups, start=1):
        for index, (row, gain) in enumerate(zip(group.rows, group.gains, strict=True)):
            cells = [
                Cell(row_name(row)),
                *([Cell(f"{number}: {cost_range(group)}")] if several else []),
                Cell.of(row.mAP, percent),
                Cell("best", sort_key=0.0) if row is group.rows[0] else Cell.of(gain, difference),
                *(_rank_cells(group, index) if ranked else []),
                Cell.of(row.macs, quantity),
                Cell.of(row.parameters, quantity),
            ]
            table.append(TableRow(row.method, cells))
    numeric = ["mAP", "against the best", *(["rank"] if ranked else []), "MACs", "parameters"]
    headers = ["method", *(["group"] if several else []), *numeric]
    if ranked:
        headers.insert(headers.index("rank") + 1, "letters")
    return Table(headers, table, numeric)


def _rank_cells(group: CostGroup, index: int) -> list[Cell]:
    if not group.ranks:
        return [Cell(MISSING), Cell(MISSING)]
    low, high = group.ranks[index]
    rank = f"{low}" if low == high else f"{low} to {high}"
    return [Cell(rank, sort_key=(low + high) / 2), Cell(group.letters[index] if group.letters else MISSING)]
