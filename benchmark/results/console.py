"""Tables of results on the terminal."""

from collections.abc import Sequence

from rich.box import HORIZONTALS
from rich.console import Group
from rich.table import Table
from rich.text import Text

from benchmark.recipe.pair import find_pair
from benchmark.recipe.sections import Paired
from benchmark.results.format import MISSING, milliseconds, percent, quantity
from benchmark.results.pairs import comparisons, points_text, unequal
from benchmark.results.parts import BUSY, Cost, Scores, TeacherReport
from benchmark.results.record import Record
from benchmark.results.reproduction import Reproduction
from benchmark.results.rows import BASELINE, Row, Statistic
from benchmark.retrieval.embedding_format import FLOAT32


def result_table(record: Record) -> Table:
    """Return a table of the teachers, if there are any, and the student of one run."""
    table = Table(
        title=f"{record.method} on {record.board}, seed {record.seed}",
        caption=Text(_caption(record)),  # not a string, whose [brackets] would be markup
        caption_justify="left",
        box=HORIZONTALS,
        padding=(0, 1, 0, 0),  # all columns fit into 80 characters
    )
    table.add_column("network")
    ks = sorted(map(int, record.scores.symmetric.recall))[:2]
    for header in ("mAP", *(f"R@{k}" for k in ks), "params", "MACs", "FLOPs", "saved %", "latency"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, teacher in _named_teachers(record).items():
        table.add_row(name, *_values(teacher.scores, ks, teacher.cost), MISSING, _latency(teacher.cost))
    cost, saved = record.network.cost, record.saved
    table.add_row(
        record.role,
        *_values(record.scores.symmetric, ks, cost),
        f"{_percent(saved.parameters)} / {_percent(saved.macs)}" if saved else MISSING,
        _latency(cost),
        style="bold",
    )
    return table


def authors_table(record: Record, paired: Paired) -> Group:
    """Return a table of the scores that the authors of a pair published, and of those of one run, with its notes."""
    found = list(comparisons(find_pair(paired.name), [record]))
    lines = [f"{network}: {source}" for network, source in dict.fromkeys((each.network, each.source) for each in found)]
    if keys := unequal(paired, record):
        lines.append(f"not as in the pair: {', '.join(keys)}")
    lines.append(f"scores in %; `benchmark show {paired.name}` prints what the authors did in another way")
    table = Table(title=f"authors / here: {paired.name}, seed {record.seed}", box=HORIZONTALS)
    for header in ("network", "score"):
        table.add_column(header)
    for header in ("authors", "here", "difference"):
        table.add_column(header, justify="right", no_wrap=True)
    for each in found:
        here = percent(each.here)
        table.add_row(each.network, each.metric, f"{each.authors:g}", here, points_text(each.difference))
    return Group(table, Text("\n".join(lines)))  # not a caption, which is as narrow as the table


def conclusion(record: Record, rows: Sequence[Row]) -> str:
    """Return in one sentence what the run of a student has shown: its cost and its mAP against others.

    Args:
        record: The record of the student.
        rows: The rows of the leaderboards. The student without distillation is compared if it is on the same board, at
            the same budget, with a gallery in the same format.
    """
    mAP, teachers = record.scores.symmetric.mAP, _named_teachers(record)
    beginning, differences = "The student", []
    if record.teacher is not None:
        share = record.network.cost.macs / max(1, record.teacher.cost.macs)
        owner = "teacher" if len(teachers) == 1 else "first teacher"
        beginning = f"With {_percent(share)} % of the {owner}'s MACs, the student"
    for name, teacher in teachers.items():
        called = "the teacher" if name == "teacher" else name
        differences.append(f"{_points(mAP - teacher.scores.mAP)} {called}")
    own = next((row for row in rows if record.id in {each.id for each in row.records}), None)
    if own is not None and own.method != BASELINE:
        wanted = (BASELINE, own.board, own.budget, own.embedding)
        alone = [row for row in rows if (row.method, row.board, row.budget, row.embedding) == wanted]
        for row in alone[:1]:
            seeds = f"{len(row.records)} seed{'' if len(row.records) == 1 else 's'}"
            differences.append(f"{_points(mAP - row.mAP.mean)} the student trained alone ({seeds})")
    listed = " and ".join(filter(None, [", ".join(differences[:-1]), *differences[-1:]]))
    return f"{beginning} has an mAP of {_percent(mAP)}{', ' * bool(differences)}{listed}."


def _named_teachers(record: Record) -> dict[str, TeacherReport]:
    """Return the teachers by what tables call them: "teacher", or "teacher 1" and so on."""
    teachers = record.teachers
    if len(teachers) == 1:
        return {"teacher": teachers[0]}
    return {f"teacher {number}": teacher for number, teacher in enumerate(teachers, start=1)}


def _points(gain: float) -> str:
    return f"{abs(100 * gain):.1f} points {'above' if gain >= 0 else 'below'}"


def _caption(record: Record) -> str:
    networks = [f"{name}: {teacher.network}" for name, teacher in _named_teachers(record).items()]
    lines = [
        "; ".join([*networks, f"{record.role}: {record.network.name}"]),
        "scores and savings (parameters / MACs) in %",
        f"latency in ms for a batch of 1 / 64 on {record.network.cost.measured_on}",
    ]
    if record.embedding != str(FLOAT32):
        lines.append(f"gallery in {record.embedding}: {record.gallery_bytes:,} bytes per image")
    if outputs := record.teacher_outputs:
        lines.append(f"trained on {outputs.title} of every image, for which the teacher was run once for all runs")
    lines += [
        f"unstable latency, batch of {batch}: {limits[0]:.3g} to {limits[1]:.3g} ms; the machine was probably busy"
        for batch in map(int, record.network.cost.latency_ms)
        if (limits := record.network.cost.unstable_range(batch))
    ]
    if (load := record.network.cost.load or 0.0) > BUSY:
        lines.append(f"other processes used {load:.1f} cores while the latency was measured")
    if record.saved and record.saved.ceiling_macs is not None:
        ceilings = (record.saved.ceiling_parameters, record.saved.ceiling_macs)
        lines.append(f"this architecture can save at most {' / '.join(map(_percent, ceilings))} %")
    if record.saved and record.saved.reset_ceiling_macs is not None:
        ceilings = (record.saved.reset_ceiling_parameters, record.saved.reset_ceiling_macs)
        lines.append(f"gradient resetting alone can save at most {' / '.join(map(_percent, ceilings))} %")
    if record.budget and not record.budget.met:
        reached, target = _percent(record.budget.reached), _percent(record.budget.target)
        lines.append(f"budget missed: {reached} % of the teacher's {record.budget.kind} instead of {target} %")
    if skipped := record.scores.symmetric.skipped:
        lines.append(f"{skipped} of {record.scores.symmetric.queries} queries have no correct match and do not count")
    return "\n".join(lines)


def _values(scores: Scores, ks: Sequence[int], cost: Cost) -> list[str]:
    fractions = (scores.mAP, *(scores.recall.get(str(k)) for k in ks))
    counts = (cost.parameters, cost.macs, cost.flops)
    return [*map(_percent, fractions), *(quantity(Statistic(count)) for count in counts)]


def _percent(fraction: float | None) -> str:
    return percent(Statistic.if_complete([fraction]))


def _latency(cost: Cost) -> str:
    return " / ".join(milliseconds(Statistic.if_complete([cost.latency_ms.get(batch)])) for batch in ("1", "64"))


def reproduction_table(reproduction: Reproduction) -> Table:
    """Return a table of the values of a record and of its rerun; scores in percent."""
    record = reproduction.record
    name = "teacher" if record.role == "teacher" else record.method
    table = Table(title=f"{name} on {record.board}, seed {record.seed}", box=HORIZONTALS)
    table.add_column("")
    table.add_column("record", justify="right")
    table.add_column("reproduced", justify="right", style="bold")
    before, now = _exact_values(record), _exact_values(reproduction.rerun)
    for name, value in before.items():
        table.add_row(name, value, now.get(name, MISSING))
    return table


def _exact_values(record: Record) -> dict[str, str]:
    scores, cost = record.scores.symmetric, record.network.cost
    recall = {f"R@{k}": scores.recall[k] for k in sorted(scores.recall, key=int)}
    return {
        **{name: f"{100 * value:.2f}" for name, value in {"mAP": scores.mAP, **recall}.items()},
        "parameters": f"{cost.parameters:,}",
        "MACs": f"{cost.macs:,}",
        "weights": record.network.weights[:16],
    }
