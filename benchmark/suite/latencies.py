"""Measuring latencies of runs that were made side by side, when the machine is idle again."""

from collections.abc import Iterable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from benchmark.errors import UserError
from benchmark.experiment.environment import device_name, use_threads
from benchmark.model import cost
from benchmark.model.serialize import load_student
from benchmark.results.record import Cost, Record
from benchmark.results.store import add_record, record_name
from benchmark.suite.job import Job


def measure_latencies(jobs: Iterable[Job], device: torch.device, records: Path, console: Console) -> None:
    """Measure the latency of every job's student and teacher, one after the other, and write it into their records.

    Left alone are records of another device, and those of which the leaderboards hold another run.

    Args:
        jobs: Runs of this machine, done or not.
        device: Of the runs.
        records: The leaderboards' folder of records.
        console: Where progress is shown.
    """
    done = [job for job in jobs if job.record.exists()]
    teachers = {job.teacher_record for job in done if job.teacher_record is not None and job.teacher_record.exists()}
    costs: dict[str, Cost] = {}
    paths = [*sorted(teachers), *(job.record for job in done)]
    for path in track(paths, "latencies", console=console, transient=True, disable=not console.is_terminal):
        try:
            record = Record.read(path)
            if record.network.cost.device != device_name(device) or not _is_shown(record, records):
                continue
            measured = _measure(path.with_name("student.pt"), record.network.cost, device)
        except UserError as error:
            console.print(f"latency not measured anew: {error}", markup=False)
            continue
        costs[record.id] = measured
        parts: dict[str, object] = {"network": record.network.model_copy(update={"cost": measured})}
        if record.teacher is not None and (teachers_cost := costs.get(record.teacher.record or "")):
            parts["teacher"] = record.teacher.model_copy(update={"cost": teachers_cost})
        record = record.model_copy(update=parts)
        record.write(path)
        add_record(record, records)


def _is_shown(record: Record, records: Path) -> bool:
    """Whether the leaderboards hold the record of this very run."""
    path = records / record_name(record)
    return path.exists() and Record.read(path).created == record.created


def _measure(student: Path, before: Cost, device: torch.device) -> Cost:
    use_threads(before.threads)
    latencies = cost.latency(load_student(student, device), before.image_size, device)
    return before.model_copy(
        update={"latency_ms": {str(batch): milliseconds for batch, milliseconds in latencies.items()}}
    )
