"""The figures of runs, side by side."""

from collections.abc import Mapping

from rich.box import HORIZONTALS
from rich.table import Table
from rich.text import Text

from benchmark.comparison.compared_run import ComparedRun
from benchmark.comparison.query_gains import QueryGains
from benchmark.results.formatting import MISSING, difference, milliseconds, percent, quantity
from benchmark.results.summary import Row


def figures_table(runs: Mapping[str, ComparedRun], gains: Mapping[str, QueryGains]) -> Table:
    """A column per run; `gains` are those over the first, of the runs whose queries can be paired with its own."""
    table = Table(caption=Text(_caption(runs, gains)), caption_justify="left", box=HORIZONTALS, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in runs:
        table.add_column(Text(name), justify="right")
    columns = [_figures(run.row) for run in runs.values()]
    if gains:
        first = next(iter(runs))
        columns = [
            column | _gained(gains.get(name), f"mAP against {first}")
            for name, column in zip(runs, columns, strict=True)
        ]
    for figure in columns[0]:
        table.add_row(Text(figure), *(Text(column[figure]) for column in columns))
    return table


def _figures(row: Row) -> dict[str, str]:
    (record,) = row.records
    return {
        "dataset": row.board,
        "method": row.method,
        "seed": str(record.seed),
        "mAP": percent(row.mAP),
        "R@1": percent(row.recall(1)),
        "parameters": quantity(row.over(lambda record: record.network.cost.parameters)),
        "MACs": quantity(row.macs),
        "saved": f"{percent(row.saved('parameters'))} / {percent(row.saved('macs'))}" if record.saved else MISSING,
        "latency": f"{milliseconds(row.latency(1))} / {milliseconds(row.latency(64))}",
        "training": f"{record.timing.train_seconds / 60:.1f}",
    }


def _gained(gains: QueryGains | None, against: str) -> dict[str, str]:
    if gains is None:
        return dict.fromkeys((against, "queries gained", "queries lost", "queries equal"), MISSING)
    return {
        against: difference(gains.gain),
        "queries gained": f"{gains.gained:,}",
        "queries lost": f"{gains.lost:,}",
        "queries equal": f"{gains.equal:,}",
    }


def _caption(runs: Mapping[str, ComparedRun], gains: Mapping[str, QueryGains]) -> str:
    devices = {name: run.row.devices[0] for name, run in runs.items()}
    where = set(devices.values())
    lines = [
        "scores and savings (parameters / MACs) in %; training in minutes",
        f"latency in ms for a batch of 1 / 64 on {where.pop()}"
        if len(where) == 1
        else "latency in ms for a batch of 1 / 64; not comparable: "
        + "; ".join(f"{name} on {device}" for name, device in devices.items()),
    ]
    if gains:
        lines.append(
            "differences of mAP in points, with the 95 % interval of a paired bootstrap over the queries; "
            "≈ where it holds zero"
        )
    return "\n".join(lines)
