"""The columns of a leaderboard: the metrics of a row as numbers, and its cells as text with notes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from benchmark.results.comparison import Gain
from benchmark.results.format import MISSING, Cell, Notes, difference, milliseconds, percent, quantity
from benchmark.results.rows import TEACHER, Row, Statistic
from benchmark.results.step_costs import StepCosts
from benchmark.results.store import record_name
from benchmark.utils.escape import markdown, markdown_code

LATENCY_BATCHES = (1, 64)
"""Batch sizes whose latency is shown."""


class Metric(NamedTuple):
    """A number computed from a row, with its name and unit in the CSV file."""

    name: str
    unit: str
    value: Callable[[Row], Statistic | None]


class Column(NamedTuple):
    """A column of the table; one that is not numeric sorts by its text."""

    header: str
    cell: Callable[[Row], Cell]
    numeric: bool = True


def metrics(ks: Sequence[int], costs: StepCosts | None) -> list[Metric]:
    """Return the metrics in the order of the columns.

    Args:
        ks: The K of Recall@K.
        costs: Measured costs of a training step, if known.
    """
    return [
        Metric("mAP", "fraction", lambda row: row.mAP),
        *(Metric(f"recall_at_{k}", "fraction", partial(Row.recall, k=k)) for k in ks),
        Metric("asymmetric_mAP", "fraction", lambda row: row.asymmetric_mAP),
        Metric("parameters", "count", lambda row: row.parameters),
        Metric("macs", "count", lambda row: row.macs),
        Metric("flops", "count", lambda row: row.flops),
        Metric("bytes_per_image", "bytes", lambda row: row.bytes_per_image),
        Metric("saved_parameters", "fraction", lambda row: row.saved("parameters")),
        Metric("saved_macs", "fraction", lambda row: row.saved("macs")),
        *(Metric(f"latency_batch_{n}", "ms", partial(Row.latency, batch=n)) for n in LATENCY_BATCHES),
        *([Metric("training_step", "multiple_of_none", partial(_step_cost, costs=costs))] if costs else []),
    ]


def _step_cost(row: Row, costs: StepCosts) -> Statistic | None:
    """Return the measured cost; None for a training without the teacher's forward passes, which are part of it."""
    if row.fixed_views:
        return None
    return Statistic.if_complete([costs.ratios.get(row.method)])


def columns(
    ks: Sequence[int],
    costs: StepCosts | None,
    *,
    gains: Mapping[str, Callable[[Row], Gain | None]],
    one_device: bool,
    notes: Notes,
) -> list[Column]:
    """Return the columns of a leaderboard.

    Args:
        ks: The K of Recall@K.
        costs: Measured costs of a training step; without them there is no such column.
        gains: Functions that return the gain of a row over its reference row, by reference method.
        one_device: Whether all latencies were measured on one device, which cells then do not name.
        notes: Receives the explanations of cells.
    """
    return [
        Column("method", partial(_method_cell, notes=notes), numeric=False),
        Column("teacher", _teacher_cell, numeric=False),
        Column("student", lambda row: Cell(MISSING if row.method == TEACHER else _networks(row)), numeric=False),
        Column("mAP", lambda row: Cell.of(row.mAP, percent)),
        *(Column(_gain_header(method), partial(_gain_cell, gain=gain)) for method, gain in gains.items()),
        *(Column(f"R@{k}", partial(_recall_cell, k=k)) for k in ks),
        Column("asymmetric mAP", partial(_asymmetric_cell, notes=notes)),
        Column("parameters", lambda row: Cell.of(row.parameters, quantity)),
        Column("MACs", lambda row: Cell.of(row.macs, quantity)),
        Column("FLOPs", lambda row: Cell.of(row.flops, quantity)),
        Column("bytes per image", lambda row: Cell.of(row.bytes_per_image, quantity)),
        Column("saved (parameters / MACs)", partial(_saved_cell, notes=notes)),
        *(
            Column(f"ms, batch {n}", partial(_latency_cell, batch=n, one_device=one_device, notes=notes))
            for n in LATENCY_BATCHES
        ),
        *([Column("training step", partial(_step_cell, costs=costs))] if costs else []),
        Column("seeds", _seeds_cell, numeric=False),
    ]


def _gain_header(method: str) -> str:
    """Return the header of the column of gains over a method."""
    return f"mAP against {method_name(method)}"


def method_name(method: str) -> str:
    """Return the name of a method, or "teacher", as Markdown."""
    return TEACHER if method == TEACHER else markdown_code(method)


def row_name(row: Row) -> str:
    """Return the name of a row's method as Markdown, followed by what distinguishes the row."""
    return " ".join([method_name(row.method), *map(markdown, row.distinction)])


def _networks(row: Row) -> str:
    return "\n".join(map(markdown, row.networks))


def _method_cell(row: Row, notes: Notes) -> Cell:
    """Name the method; notes list seeds that missed their budget or left out broken images."""
    texts = []
    missed = [(record.seed, record.budget) for record in row.records if record.budget and not record.budget.met]
    if missed:
        _, budget = missed[0]  # the records share their recipe, and so their budget
        kind = "MACs" if budget.kind == "macs" else "parameters"
        reached = ", ".join(f"{100 * budget.reached:.1f} % (seed {seed})" for seed, budget in missed)
        texts.append(
            f"{row_name(row)} missed its budget of {100 * budget.target:.1f} % of the teacher's {kind}: "
            f"it reached {reached}."
        )
    broken = [f"{record.data.broken:,} (seed {record.seed})" for record in row.records if record.data.broken]
    if broken:
        texts.append(f"Broken images that the runs of {row_name(row)} left out: {', '.join(broken)}.")
    return Cell(row_name(row), tuple(map(notes.number, texts)))


def _teacher_cell(row: Row) -> Cell:
    if row.method == TEACHER:
        return Cell(_networks(row))
    return Cell(markdown(row.teacher) if row.teacher else MISSING)


def _gain_cell(row: Row, gain: Callable[[Row], Gain | None]) -> Cell:
    return Cell.of(gain(row), difference)


def _recall_cell(row: Row, k: int) -> Cell:
    return Cell.of(row.recall(k), percent)


def _asymmetric_cell(row: Row, notes: Notes) -> Cell:
    reasons = {record.scores.asymmetric_reason for record in row.records} - {None}
    texts = [f"No asymmetric mAP: {markdown(reason)}." for reason in sorted(map(str, reasons))]
    return Cell.of(row.asymmetric_mAP, percent, [notes.number(text) for text in texts])


def _saved_cell(row: Row, notes: Notes) -> Cell:
    """Show the fractions of the teacher's cost that are saved; a note has the largest that the architecture allows."""
    kinds = {"parameters": "parameters", "macs": "MACs"}
    saved = {kind: row.saved(kind) for kind in kinds}
    if not any(saved.values()):
        return Cell(MISSING)
    limits = [
        f"{percent(saved[kind])} % of the {name} (at most {percent(ceiling)} %)"
        for kind, name in kinds.items()
        if (ceiling := row.saved(f"ceiling_{kind}")) is not None
    ]
    marks = []
    if limits:
        text = f"{row_name(row)} saved {' and '.join(limits)}; the architecture of the student sets the maxima."
        marks.append(notes.number(text))
    return Cell.of(saved["parameters"], lambda _: " / ".join(map(percent, saved.values())), marks)


def _latency_cell(row: Row, batch: int, one_device: bool, notes: Notes) -> Cell:
    """Show the latency. Notes name the device unless there is one only, and the seeds of unstable measurements."""
    marks = []
    if not one_device and batch == LATENCY_BATCHES[0]:
        text = f"Latency measured on {markdown(row.devices[0])}."
        if len(row.devices) > 1:
            devices = "; ".join(map(markdown, row.devices))
            text = f"No mean latency: the records were measured on different devices ({devices})."
        marks.append(notes.number(text))
    unstable = {record.seed: record.network.cost.unstable_range(batch) for record in row.records}
    ranges = [f"{low:.3g} to {high:.3g} ms (seed {seed})" for seed, (low, high) in _known(unstable)]
    if ranges:
        text = (
            f"Unstable latency of {row_name(row)} for a batch of {batch}, probably on a busy machine, which is not "
            f"compared; 10th to 90th percentile: {', '.join(ranges)}."
        )
        marks.append(notes.number(text))
    stable = row.stable_latency(batch)
    return Cell(milliseconds(row.latency(batch)), tuple(marks), None if stable is None else stable.mean)


def _known(ranges: Mapping[int, tuple[float, float] | None]) -> list[tuple[int, tuple[float, float]]]:
    return [(seed, limits) for seed, limits in ranges.items() if limits is not None]


def _step_cell(row: Row, costs: StepCosts) -> Cell:
    return Cell.of(_step_cost(row, costs), lambda ratio: MISSING if ratio is None else f"x {ratio.mean:.2f}")


def _seeds_cell(row: Row) -> Cell:
    return Cell(" ".join(f"[{record.seed}](records/{record_name(record)})" for record in row.records))
