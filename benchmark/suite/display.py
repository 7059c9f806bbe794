"""What a person sees while a suite runs."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from benchmark.suite.job import Job, epochs_done

_AN_HOUR = 3600.0  # in seconds


class Display:
    """One bar over all epochs of all runs, with ETA, and a line for each run that works; else a line per event.

    Args:
        jobs: The runs to be done.
        console: Where to draw.
    """

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self.jobs = jobs
        self.console = console
        self._teachers = {job.teacher: job.teacher_epochs for job in jobs if job.teacher is not None}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        # Over an hour, because epochs of unlike methods come in at unlike times.
        self._bar = Progress(*columns, console=console, speed_estimate_period=_AN_HOUR, disable=not console.is_terminal)
        self._lines: dict[Job, TaskID] = {}
        self._trained = {job.folder: min(job.epochs, epochs_done(job.folder)) for job in jobs}
        self._trained |= {folder: min(epochs, epochs_done(folder)) for folder, epochs in self._teachers.items()}
        self._start = sum(self._trained.values())
        total = sum(job.epochs for job in jobs) + sum(self._teachers.values())
        self._whole = self._bar.add_task(f"{len(jobs)} runs", total=total - self._start)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, ended: set[Job]) -> None:
        """Draw how far the runs are, those that have ended among them."""
        if not self.console.is_terminal:
            return
        for job in self.jobs:
            if job in ended:
                self._trained[job.folder] = job.epochs
                if (line := self._lines.pop(job, None)) is not None:
                    self._bar.remove_task(line)
            elif job.log.exists():
                self._show(job)
        self._bar.update(self._whole, completed=sum(self._trained.values()) - self._start)

    def tell(self, line: str) -> None:
        """Print a line above the bars."""
        self._bar.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _show(self, job: Job) -> None:
        """Look at a run that has begun, and at its teacher while that is trained."""
        if job not in self._lines:
            self._lines[job] = self._bar.add_task(job.name, total=job.epochs)
        if job.teacher is not None and self._trained[job.teacher] < job.teacher_epochs:
            self._trained[job.teacher] = min(job.teacher_epochs, epochs_done(job.teacher))
        self._trained[job.folder] = min(job.epochs, epochs_done(job.folder))
        self._bar.update(self._lines[job], completed=self._trained[job.folder])
