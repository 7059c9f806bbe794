"""Scheduler of a suite: executes all runs, even if some fail."""

import signal
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass

from benchmark.errors import UserError
from benchmark.results.record import Record
from benchmark.suite.display import Display
from benchmark.suite.executors import Executor
from benchmark.suite.job import Job
from benchmark.utils.console import Console
from benchmark.utils.lifetime import REQUEUE

_POLL_INTERVAL = 0.5
"""Time in seconds between updates of the display."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run: its record, or the reason for its failure."""

    job: Job
    record: Record | None
    failure: str | None = None
    stopped: bool = False
    """Whether it has ended early, at a time limit or a scheduler's signal, and can be continued."""


def run_all(jobs: Sequence[Job], executor: Executor, console: Console) -> list[Outcome]:
    """Execute all runs, even if some fail, and print a line as each ends.

    Args:
        jobs: The runs to execute.
        executor: Where their commands run. It is closed at the end.
        console: Where progress is printed.

    Returns:
        The outcomes in the order of `jobs`.

    Raises:
        KeyboardInterrupt: The suite was interrupted. The active runs are interrupted too, and can be resumed.
    """
    for job in jobs:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.unlink(missing_ok=True)  # the display treats a run as started if its log exists
    outcomes: dict[Job, Outcome] = {}
    before = {job: _modified(job) for job in jobs}
    try:
        waiting = {executor.submit(job.command, job.log): job for job in jobs}
        with Display(jobs, console) as display:
            while waiting:
                ended, _ = wait(waiting, timeout=_POLL_INTERVAL, return_when=FIRST_COMPLETED)
                for future in ended:
                    job = waiting.pop(future)
                    outcomes[job] = _outcome(job, future, before[job])
                    display.print(f"[{len(outcomes)}/{len(jobs)}] {_summary(outcomes[job])}")
                display.update(outcomes)
    finally:
        executor.close()
    return [outcomes[job] for job in jobs]


def _outcome(job: Job, future: "Future[int]", before: int | None) -> Outcome:
    """Return the result of a run that has ended.

    Args:
        job: The run.
        future: Its exit status.
        before: When its record was modified before the run; None if there was none.
    """
    try:
        status = future.result()
    except (Exception, CancelledError) as error:
        return Outcome(job, None, f"{type(error).__name__}: {error}")
    if status == REQUEUE:
        return Outcome(job, None, job.last_log_line(), stopped=True)
    failure = f"exit status {status}: {job.last_log_line()}"
    if status < 0:
        reason = "as happens when memory runs out" if status == -signal.SIGKILL else job.last_log_line()
        failure = f"killed by {signal.Signals(-status).name}: {reason}"
    if _modified(job) is None or (status and _modified(job) == before):
        return Outcome(job, None, failure)
    try:
        return Outcome(job, Record.read(job.record), failure if status else None)
    except UserError as error:
        return Outcome(job, None, str(error))


def _modified(job: Job) -> int | None:
    return job.record.stat().st_mtime_ns if job.record.exists() else None


def _summary(outcome: Outcome) -> str:
    if outcome.record is None:
        return f"{outcome.job.name} {'stopped' if outcome.stopped else 'FAILED'}: {outcome.failure}"
    warning = f"; warning: {outcome.failure}" if outcome.failure else ""
    return f"{outcome.job.name}: mAP {100 * outcome.record.scores.symmetric.mAP:.1f} %{warning}"
