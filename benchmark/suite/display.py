"""Progress of a suite on the terminal."""

from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

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
from benchmark.utils.console import Console

_SPEED_PERIOD = 3600.0
"""Time in seconds over which the speed is averaged. It is long because the time per epoch differs between methods."""


class Display:
    """A progress bar over all epochs of all runs, and a bar per active run.

    If the console is not a terminal, there are no bars and only `print` has an effect.

    Args:
        jobs: The runs to execute.
        console: Where to print.
    """

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self._jobs = jobs
        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns, console=console, speed_estimate_period=_SPEED_PERIOD, disable=not console.is_terminal
        )
        # Runs share teachers, so trainings are counted once per folder.
        self._epochs = {folder: epochs for job in jobs for folder, epochs in job.trainings.items()}
        self._done = dict.fromkeys(self._epochs, 0)
        for folder in self._epochs:
            self._read(folder)
        self._resumed_from = sum(self._done.values())
        self._total = self._progress.add_task(
            f"{len(jobs)} runs", total=sum(self._epochs.values()) - self._resumed_from
        )
        self._bars: dict[Job, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, ended: Collection[Job]) -> None:
        """Read the progress of the active runs and draw the bars.

        Args:
            ended: The runs that have ended, with or without success.
        """
        if not self._console.is_terminal:
            return
        for job in self._jobs:
            if job not in ended and not job.log.exists():  # not started
                continue
            for folder in job.trainings:
                self._read(folder)
            student = job.record.parent
            if job in ended:
                self._done[student] = self._epochs[student]
                if (bar := self._bars.pop(job, None)) is not None:
                    self._progress.remove_task(bar)
            else:
                if job not in self._bars:
                    self._bars[job] = self._progress.add_task(job.name, total=self._epochs[student])
                self._progress.update(self._bars[job], completed=self._done[student])
        self._progress.update(self._total, completed=sum(self._done.values()) - self._resumed_from)

    def print(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _read(self, folder: Path) -> None:
        if self._done[folder] < self._epochs[folder]:
            self._done[folder] = min(self._epochs[folder], epochs_done(folder))
