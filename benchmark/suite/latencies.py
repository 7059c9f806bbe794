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
    teachers = {path for job in finished for path in job.teacher_records if path.exists()}
    costs: dict[str, Cost] = {}
    # Teachers first, because a student's record repeats the cost of its teacher.
    paths = [*sorted(teachers), *(job.record for job in finished)]
    published = {job.record: _published_teachers(job) for job in finished}
    for path in track(paths, "latencies", console=console, transient=True, disable=not console.is_terminal):
        try:
            record = Record.read(path)
            if record.network.cost.device != device_name(device) or not has_record(record, records):
                continue
            measured = _measure(path.with_name("student.pt"), record.network.cost, device)
            for teacher, folder in zip(record.teachers, published.get(path, ()), strict=False):
                if folder is not None and teacher.record is not None and teacher.record not in costs:
                    before = teacher.cost.model_copy(update={"threads": record.network.cost.threads})
                    costs[teacher.record] = _measure(folder / "student.pt", before, device)
        except UserError as error:
            console.print(f"{path}: latency not measured: {error}", markup=False)
            continue
        costs[record.id] = measured
        update: dict[str, object] = {"network": record.network.model_copy(update={"cost": measured})}
        if record.teachers:
            first, *others = (
                teacher.model_copy(update={"cost": costs.get(teacher.record or "", teacher.cost)})
                for teacher in record.teachers
            )
            update |= {"teacher": first, "more_teachers": tuple(others)}
        record = record.model_copy(update=update)
        replace_record(record, path, records)


def _published_teachers(job: Job) -> list[Path | None]:
    """Return the folder of each teacher that is a published one, and None for the others."""
    checkpoints = (teacher.checkpoint for teacher in job.recipe.teachers)
    folders = (None if checkpoint is None else teacher_path(checkpoint) for checkpoint in checkpoints)
    return [folder if folder is not None and folder.is_dir() else None for folder in folders]


def _measure(student: Path, before: Cost, device: torch.device) -> Cost:
    use_threads(before.threads)
    return before.model_copy(update=measured_latency(load_network(student, device), before.image_size, device))
