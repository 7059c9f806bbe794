"""Doing many runs, whatever becomes of each."""

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console

from benchmark.results.record import Record
from benchmark.suite.display import Display
from benchmark.suite.job import Job

_LOOK_EVERY = 0.5
"""Seconds between two looks at the runs."""


class Executor(Protocol):
    """Where commands run."""

    def submit(self, command: Sequence[str], log: Path) -> "Future[int]":
        """Queue a command, whose output goes to `log`; the future is its exit status."""

    def close(self) -> None:
        """Interrupt what runs, and forget what waits."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run: its record, or else why there is none."""

    job: Job
    record: Record | None
    failure: str | None


def run_all(jobs: Sequence[Job], executor: Executor, console: Console) -> list[Outcome]:
    """Do every run, and go on where one fails; in the order of the jobs.

    Raises:
        KeyboardInterrupt: After the runs have been interrupted and have left what a resume needs.
    """
    for job in jobs:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.unlink(missing_ok=True)  # its being there says that the run has begun
    outcomes: dict[Job, Outcome] = {}
    waiting = {executor.submit(job.command, job.log): job for job in jobs}
    try:
        with Display(jobs, console) as display:
            while waiting:
                ended, _ = wait(waiting, timeout=_LOOK_EVERY, return_when=FIRST_COMPLETED)
                for future in ended:
                    job = waiting.pop(future)
                    outcomes[job] = _outcome(job, future)
                    display.tell(_line(outcomes[job], len(outcomes), len(jobs)))
                display.update(set(outcomes))
    finally:
        executor.close()
    return [outcomes[job] for job in jobs]


def _outcome(job: Job, future: "Future[int]") -> Outcome:
    try:
        status = future.result()
    except (Exception, CancelledError) as error:
        return Outcome(job, None, f"{type(error).__name__}: {error}")
    if status or not job.record.exists():
        return Outcome(job, None, f"exit status {status}: {job.last_log_line()}")
    return Outcome(job, Record.read(job.record), None)


def _line(outcome: Outcome, count: int, total: int) -> str:
    if outcome.record is None:
        return f"[{count}/{total}] {outcome.job.name} FAILED: {outcome.failure}"
    return f"[{count}/{total}] {outcome.job.name}: {100 * outcome.record.scores.symmetric.mAP:.1f} % mAP"
