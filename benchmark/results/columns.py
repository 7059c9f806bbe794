"""The columns of a leaderboard: one row's cells, in Markdown."""

import re
from collections.abc import Sequence

from benchmark.results.formatting import MISSING, difference, milliseconds, one_line, percent, quantity
from benchmark.results.gain import Gain
from benchmark.results.notes import Notes
from benchmark.results.step_costs import StepCosts
from benchmark.results.store import record_name
from benchmark.results.summary import TEACHER, Row


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
        *([_step(row, costs)] if costs else []),
        " ".join(f"[{record.seed}](records/{record_name(record)})" for record in row.records),
    ]


def _step(row: Row, costs: StepCosts) -> str:
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
