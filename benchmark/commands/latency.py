"""`benchmark latency`."""

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.box import HORIZONTALS
from rich.table import Table
from torch import Tensor

from benchmark.deployment.export import export_student
from benchmark.deployment.runtimes import FORMATS, find_format
from benchmark.deployment.student import Student
from benchmark.errors import UserError, nearest
from benchmark.experiment.environment import choose_device, use_threads
from benchmark.experiment.finished import FinishedRun
from benchmark.experiment.report import measured_latency
from benchmark.results.format import MISSING, milliseconds
from benchmark.results.parts import BUSY, RuntimeLatency
from benchmark.results.record import Record
from benchmark.results.rows import Statistic
from benchmark.results.store import replace_record
from benchmark.utils.atomic import temporary_folder
from benchmark.utils.console import Console

PYTORCH = "pytorch"
"""The runtime of a student that is not exported."""


def latency(run: Path, *, runtime: str, device: str, threads: int | None, data_root: Path, leaderboards: Path) -> None:
    """Measure the latency of a run's student, print it, and add it to the record.

    It replaces the latency that was measured before in the same runtime on the same device.

    Args:
        run: Folder of a finished run.
        runtime: `PYTORCH`, or a format of `benchmark export`, in which the student is executed.
        device: Name of the device.
        threads: Number of CPU threads; None for one per core.
        data_root: Folder of all datasets.
        leaderboards: Folder of records, in which the record is updated if it is there.

    Raises:
        UserError: The run, the device or a package is missing, or the network cannot be exported.
    """
    if runtime not in (PYTORCH, *FORMATS):
        choices = (PYTORCH, *FORMATS)
        raise UserError(f"--runtime {runtime}: choose {', '.join(choices)}{nearest(runtime, choices)}")
    chosen, format_ = choose_device(device), None if runtime == PYTORCH else find_format(runtime)
    finished = FinishedRun(run, data_root)
    record = Record.read(run / "record.json")
    use_threads(threads)
    student = Student(finished.student(chosen), record)
    with ExitStack() as stack:
        network: Callable[[Tensor], Tensor] = student.network
        if format_ is not None:
            folder = stack.enter_context(temporary_folder(run / "exports" / runtime))
            network = export_student(student, folder, format_, threads=torch.get_num_threads())
        fields = measured_latency(network, student.image_size, chosen)
    measured = RuntimeLatency(
        runtime=runtime,
        version=f"torch {torch.__version__}" if format_ is None else format_.title(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **fields,
    )
    others = [each for each in record.latencies if _place(each) != _place(measured)]
    record = record.model_copy(update={"latencies": (*others, measured)})
    replace_record(record, run / "record.json", leaderboards / "records")
    Console(highlight=False, soft_wrap=True).print(_table(record, measured))


def _place(measured: RuntimeLatency) -> tuple[str, str, int]:
    return measured.runtime, measured.device, measured.threads


def _table(record: Record, latest: RuntimeLatency) -> Table:
    """Return a table of all latencies of a student."""
    remarks = []
    if any(latest.unstable_range(int(batch)) for batch in latest.latency_ms):
        remarks.append("The latency is unstable, and is not compared: repeat the command on an idle machine.")
    if (load := latest.load or 0.0) > BUSY:
        remarks.append(f"Other processes used {load:.1f} cores in the meantime.")
    table = Table(
        title=f"Median and quartiles of {record.method} on {record.board}",
        box=HORIZONTALS,
        caption="\n".join(remarks) or None,
    )
    for header in ("runtime", "version", "device"):
        table.add_column(header)
    for batch in latest.latency_ms:
        table.add_column(f"ms, batch {batch}", justify="right")
    for each in record.latencies:
        times = (_interval(each, batch) for batch in latest.latency_ms)
        table.add_row(each.runtime, each.version, each.measured_on, *times)
    return table


def _interval(measured: RuntimeLatency, batch: str) -> str:
    if batch not in measured.latency_ms:
        return MISSING
    quartiles = (measured.latency_quartiles_ms or {}).get(batch)
    median = milliseconds(Statistic(measured.latency_ms[batch]))
    return median if quartiles is None else f"{median} [{' - '.join(f'{each:.3g}' for each in quartiles)}]"
