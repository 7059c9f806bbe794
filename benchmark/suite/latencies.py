"""Latency measurements after concurrent runs, which distort each other's measurements."""

from collections.abc import Iterable
from pathlib import Path

import torch
from rich.progress import track

from benchmark.errors import UserError
from benchmark.experiment.environment import device_name, use_threads
from benchmark.experiment.published import teacher_path
from benchmark.experiment.report import measured_latency
from benchmark.model.serialize import load_network
from benchmark.results.parts import Cost
from benchmark.results.record import Record
from benchmark.results.store import has_record, replace_record
from benchmark.suite.job import Job
from benchmark.utils.console import Console


def measure_latencies(jobs: Iterable[Job], device: torch.device, records: Path, console: Console) -> None:
    """Measure the latencies of the students and teachers one at a time, and update their records.

    Skips records that were measured on another device, and records that are not on the leaderboards.

    Args:
        jobs: Runs on this machine. Those without a record are skipped.
        device: The device of the runs.
        records: Folder of the leaderboards' records.
        console: Where progress is printed.
    """
    finished = [job for job in jobs if job.record.exists()]
    teachers = {
        job.teacher_record for job in finished if job.teacher_record is not None and job.teacher_record.exists()
    }
    costs: dict[str, Cost] = {}
    # Teachers first, because a student's record repeats the cost of its teacher.
    paths = [*sorted(teachers), *(job.record for job in finished)]
    published = {job.record: folder for job in finished if (folder := _published_teacher(job)) is not None}
    for path in track(paths, "latencies", console=console, transient=True, disable=not console.is_terminal):
        try:
            record = Record.read(path)
            if record.network.cost.device != device_name(device) or not has_record(record, records):
                continue
            measured = _measure(path.with_name("student.pt"), record.network.cost, device)
            teacher = record.teacher.record if record.teacher else None
            if record.teacher and teacher is not None and teacher not in costs and path in published:
                before = record.teacher.cost.model_copy(update={"threads": record.network.cost.threads})
                costs[teacher] = _measure(published[path] / "student.pt", before, device)
        except UserError as error:
            console.print(f"{path}: latency not measured: {error}", markup=False)
            continue
        costs[record.id] = measured
        update: dict[str, object] = {"network": record.network.model_copy(update={"cost": measured})}
        if record.teacher is not None and (teacher_cost := costs.get(record.teacher.record or "")):
            update["teacher"] = record.teacher.model_copy(update={"cost": teacher_cost})
        record = record.model_copy(update=update)
        replace_record(record, path, records)


def _published_teacher(job: Job) -> Path | None:
    """Return the folder of the published teacher that a run uses, if it does."""
    checkpoint = job.recipe.teacher.checkpoint
    folder = None if checkpoint is None else teacher_path(checkpoint)
    return folder if folder is not None and folder.is_dir() else None


def _measure(student: Path, before: Cost, device: torch.device) -> Cost:
    use_threads(before.threads)
    return before.model_copy(update=measured_latency(load_network(student, device), before.image_size, device))
