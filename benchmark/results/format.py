"""Numbers and cells of tables as they are printed."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from tabulate import tabulate

from benchmark.results.comparison import Gain
from benchmark.results.rows import TEACHER, Row, Statistic
from benchmark.results.step_costs import StepCosts
from benchmark.results.store import record_name

MISSING = "-"
_UNITS = ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"))


def one_line(name: str) -> str:
    """What somebody has named, as it can stand in a cell of a table."""
    return " ".join(name.split()).replace("|", r"\|")


def percent(value: Statistic | None) -> str:
    """A fraction as percent with one decimal: "72.3" or "72.3 ± 0.4"."""
    return MISSING if value is None else _join(value, 0.01, 1)


def difference(gain: Gain | None) -> str:
    """Points of mAP with their 95 % interval: "+1.2 [+0.8, +1.6]"; "≈ " before it where that holds zero."""
    if gain is None:
        return MISSING
    low, high = 100 * gain.interval.low, 100 * gain.interval.high
    return f"{'' if gain.interval.excludes_zero else '≈ '}{100 * gain.mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def quantity(value: Statistic | None) -> str:
    """A count with three significant digits and a decimal prefix: "22.0 M" or "22.0 ± 0.3 M"."""
    if value is None:
        return MISSING
    rounded = float(f"{value.mean:.2e}")  # rounded first, so that 999,999 becomes "1.00 M" and not "1000 k"
    unit, suffix = next((pair for pair in _UNITS if rounded >= pair[0]), (1.0, ""))
    return _join(value, unit, _decimals(rounded / unit) if suffix else 0) + suffix


def milliseconds(value: Statistic | None) -> str:
    """A time with three significant digits: "3.10" or "3.10 ± 0.05"."""
    return MISSING if value is None else _join(value, 1.0, _decimals(value.mean))


def _decimals(value: float) -> int:
    """How many decimals show three significant digits; at most 3."""
    exponent = int(f"{value:.2e}".partition("e")[2])
    return min(3, max(0, 2 - exponent))


def _join(value: Statistic, unit: float, decimals: int) -> str:
    mean = f"{value.mean / unit:.{decimals}f}"
    # Costs of a static network are the same in every run: nothing varies, so nothing is said about it.
    return f"{mean} ± {value.std / unit:.{decimals}f}" if value.std else mean


@dataclass(frozen=True, slots=True)
class Grid:
    """Headers and cells in Markdown."""

    headers: Sequence[str]
    methods: Sequence[str]
    """Whose row it is."""
    cells: Sequence[Sequence[str]]
    """By row."""
    numbers: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """By which a column sorts, by its header; None for a cell that comes last. Other columns sort by their text."""

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        return tabulate(self.cells, self.headers, tablefmt="github", disable_numparse=True)


class Notes:
    """Collects notes; equal texts share a number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        """The superscript that refers to the note `text`."""
        if text not in self.texts:
            self.texts.append(text)
        # GitHub's own footnotes ([^1]) are plain brackets everywhere else; this is a superscript everywhere.
        return f" <sup>{self.texts.index(text) + 1}</sup>"

    def lines(self) -> list[str]:
        """The notes as a numbered Markdown list."""
        return [f"{number}. {text}" for number, text in enumerate(self.texts, start=1)]


class Figure(NamedTuple):
    """A number that rows have: its name and unit in CSV and JSON, the column that it sorts, and where it comes from."""

    name: str
    unit: str
    header: str | None
    of: Callable[[Row], Statistic | None]


def figures(ks: Sequence[int], costs: StepCosts | None) -> list[Figure]:
    """In the order of the columns; `ks` are the K of Recall@K."""
    return [
        Figure("mAP", "fraction", "mAP", lambda row: row.mAP),
        *(Figure(f"recall_at_{k}", "fraction", f"R@{k}", partial(Row.recall, k=k)) for k in ks),
        Figure("asymmetric_mAP", "fraction", "asymmetric mAP", lambda row: row.asymmetric_mAP),
        Figure("parameters", "count", "parameters", lambda row: row.parameters),
        Figure("macs", "count", "MACs", lambda row: row.macs),
        Figure("flops", "count", "FLOPs", lambda row: row.over(lambda of: of.network.cost.flops)),
        Figure("saved_parameters", "fraction", "saved (parameters / MACs)", lambda row: row.saved("parameters")),
        Figure("saved_macs", "fraction", None, lambda row: row.saved("macs")),
        *(Figure(f"latency_batch_{n}", "ms", f"ms, batch {n}", partial(Row.latency, batch=n)) for n in (1, 64)),
        *([Figure("training_step", "multiple_of_none", "training step", partial(_step_cost, costs))] if costs else []),
    ]


def _step_cost(costs: StepCosts, row: Row) -> Statistic | None:
    return Statistic.where_known([costs.ratios.get(row.method)])


def headers(ks: Sequence[int], costs: StepCosts | None, gains: Sequence[str] = ()) -> list[str]:
    """The names of the columns; `ks` are the K of Recall@K, `gains` the columns of gains over others."""
    return [
        *("method", "teacher", "student", "mAP", *gains),
        *(f"R@{k}" for k in ks),
        *("asymmetric mAP", "parameters", "MACs", "FLOPs", "saved (parameters / MACs)"),
        *("ms, batch 1", "ms, batch 64"),
        *(["training step"] if costs else []),
        "seeds",
    ]


def cells(
    row: Row,
    ks: Sequence[int],
    notes: Notes,
    one_device: bool,
    costs: StepCosts | None,
    gains: Sequence[Gain | None] = (),
) -> list[str]:
    """The row's cells in the order of `headers`; what needs explaining goes into `notes`.

    `gains` are those over the rows that `headers` names. `one_device`: all latencies of the table were measured on one
    device, so that cells need not name it.
    """
    is_teacher = row.method == TEACHER
    networks = "<br>".join(map(one_line, row.networks))
    return [
        ("teacher" if is_teacher else f"`{row.method}`") + _missed_budgets(row, notes) + _broken_images(row, notes),
        networks if is_teacher else one_line(row.teacher or MISSING),
        MISSING if is_teacher else networks,
        percent(row.mAP),
        *(difference(gain) for gain in gains),
        *(percent(row.recall(k)) for k in ks),
        _asymmetric(row, notes),
        quantity(row.parameters),
        quantity(row.macs),
        quantity(row.over(lambda record: record.network.cost.flops)),
        _saved(row, notes),
        milliseconds(row.latency(1)) + ("" if one_device else notes.mark(_where(row))),
        milliseconds(row.latency(64)),
        *([_step_cell(row, costs)] if costs else []),
        " ".join(f"[{record.seed}](records/{record_name(record)})" for record in row.records),
    ]


def _step_cell(row: Row, costs: StepCosts) -> str:
    ratio = costs.ratios.get(row.method)
    return MISSING if ratio is None else f"x {ratio:.2f}"


def _where(row: Row) -> str:
    if len(row.devices) > 1:
        return f"No mean latency: its records were measured on different devices ({'; '.join(row.devices)})."
    return f"Latency measured on {row.devices[0]}."


def _asymmetric(row: Row, notes: Notes) -> str:
    """Student queries against the teacher's gallery, or a dash and the reasons."""
    given = [record.scores.asymmetric_reason for record in row.records if record.scores.asymmetric_reason]
    reasons = sorted(
        {re.sub(rf"^{re.escape(row.method)} ", "it ", reason) for reason in given}
    )  # one note for all rows
    return percent(row.asymmetric_mAP) + "".join(notes.mark(f"No asymmetric mAP: {reason}.") for reason in reasons)


def _saved(row: Row, notes: Notes) -> str:
    """Share of the teacher's cost that the student does without, and the most that its architecture allows."""
    parts = [("parameters", "ceiling_parameters"), ("MACs", "ceiling_macs")]
    saved = [percent(row.saved(name.lower())) for name, _ in parts]
    if saved == [MISSING, MISSING]:
        return MISSING
    limits = [
        f"{value} % of at most {percent(ceiling)} % of the {name}"
        for (name, field), value in zip(parts, saved, strict=True)
        if (ceiling := row.saved(field)) is not None
    ]
    mark = (
        notes.mark(f"`{row.method}` saved {' and '.join(limits)} that it can save in this network.") if limits else ""
    )
    return " / ".join(saved) + mark


def _broken_images(row: Row, notes: Notes) -> str:
    """A note if any seed left out images that could not be read."""
    left_out = [f"{record.data.broken:,} with seed {record.seed}" for record in row.records if record.data.broken]
    return notes.mark(f"Broken images left out of `{row.method}`: {', '.join(left_out)}.") if left_out else ""


def _missed_budgets(row: Row, notes: Notes) -> str:
    """A note if any seed did not come down to the cost it was to meet."""
    missed = [(record.seed, record.budget) for record in row.records if record.budget and not record.budget.met]
    if not missed:
        return ""
    _, budget = missed[0]  # the same for the whole row, whose records share their recipe
    name = "MACs" if budget.kind == "macs" else "parameters"
    reached = ", ".join(f"{100 * budget.reached:.1f} % with seed {seed}" for seed, budget in missed)
    return notes.mark(
        f"`{row.method}` missed its budget of {100 * budget.target:.1f} % of the teacher's {name}: {reached}."
    )
