"""Students in other runtimes and on other devices, as `benchmark export` and `benchmark latency` have measured them."""

from collections.abc import Iterable, Iterator

from benchmark.results.columns import LATENCY_BATCHES, row_name
from benchmark.results.format import MISSING, Cell, Table, TableRow, milliseconds, percent, quantity
from benchmark.results.parts import BUSY, Export, Timed
from benchmark.results.record import Record
from benchmark.results.rows import Row, Statistic
from benchmark.utils.escape import markdown

RUNTIMES_CAPTION = (
    "Latencies are medians in milliseconds. The difference is the largest one from the embeddings of PyTorch, which "
    "have unit length. (unstable): the quartiles differ by more than 20 % of the median, so that the latency is not "
    "compared. (busy): other processes used the processor in the meantime."
)


def runtimes_table(rows: Iterable[Row]) -> Table | None:
    """Return a table with a line per measurement; None if there are none."""
    lines = [
        TableRow(
            row.method,
            [
                Cell(row_name(row)),
                Cell.of(Statistic(record.network.cost.macs), quantity),
                Cell(str(record.seed), sort_key=record.seed),
                Cell(runtime),
                Cell(markdown(timed.measured_on)),
                *_parity(timed),
                *(_latency(timed, batch) for batch in LATENCY_BATCHES),
            ],
        )
        for row in rows
        for record in row.records
        for runtime, timed in _measurements(record)
    ]
    numeric = ["mAP", "difference", "bytes", *(f"ms, batch {batch}" for batch in LATENCY_BATCHES)]
    return (
        Table(["method", "MACs", "seed", "runtime", "device", *numeric], lines, ["MACs", "seed", *numeric])
        if lines
        else None
    )


def _measurements(record: Record) -> Iterator[tuple[str, Timed]]:
    for name, export in sorted(record.exports.items()):
        yield f"{markdown(name)} ({markdown(export.runtime)})", export
    for each in record.latencies:
        yield f"{markdown(each.runtime)} ({markdown(each.version)})", each


def _parity(timed: Timed) -> list[Cell]:
    if not isinstance(timed, Export):
        return [Cell(MISSING)] * 3
    return [
        Cell.of(Statistic(timed.mAP), percent),
        Cell(f"{timed.max_abs_difference:.0e}", sort_key=timed.max_abs_difference),
        Cell.of(Statistic(timed.bytes), quantity),
    ]


def _latency(timed: Timed, batch: int) -> Cell:
    median = timed.latency_ms.get(str(batch))
    if median is None:
        return Cell(MISSING)
    unstable = timed.unstable_range(batch) is not None
    marks = [*(["unstable"] if unstable else []), *(["busy"] if (timed.load or 0.0) > BUSY else [])]
    text = milliseconds(Statistic(median)) + (f" ({', '.join(marks)})" if marks else "")
    return Cell(text, sort_key=None if unstable else median)
