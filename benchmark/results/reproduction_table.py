"""The table at the end of a reproduction."""

from rich.box import HORIZONTALS
from rich.table import Table

from benchmark.results.formatting import MISSING
from benchmark.results.record import Record
from benchmark.results.reproduction import Reproduction


def reproduction_table(reproduction: Reproduction) -> Table:
    """The figures of a record and of its reproduction, side by side; scores in percent."""
    record = reproduction.record
    name = "teacher" if record.role == "teacher" else record.method
    table = Table(title=f"{name} on {record.board}, seed {record.seed}", box=HORIZONTALS)
    table.add_column("")
    table.add_column("record", justify="right")
    table.add_column("reproduced", justify="right", style="bold")
    before, now = _figures(record), _figures(reproduction.found)
    for figure, value in before.items():
        table.add_row(figure, value, now.get(figure, MISSING))
    return table


def _figures(record: Record) -> dict[str, str]:
    scores, cost = record.scores.symmetric, record.network.cost
    recall = {f"R@{k}": scores.recall[k] for k in sorted(scores.recall, key=int)}
    return {
        **{name: f"{100 * value:.2f}" for name, value in {"mAP": scores.mAP, **recall}.items()},
        "parameters": f"{cost.parameters:,}",
        "MACs": f"{cost.macs:,}",
        "weights": record.network.weights[:16],
    }
