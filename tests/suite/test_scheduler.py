"""Execution of jobs with stub commands, and the display."""

import io
import json
import re
from concurrent.futures import Future
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.suite import scheduler
from benchmark.suite.display import Display
from benchmark.suite.executors import Processes
from benchmark.suite.scheduler import run_all


class StubExecutor:
    """Returns one future for every command."""

    def __init__(self, future):
        self.future = future
        self.is_closed = False

    def submit(self, command, log):
        return self.future

    def close(self):
        self.is_closed = True


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def terminal() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=True)


def printed(console: Console) -> list[str]:
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", console.file.getvalue()).splitlines()


def bars(console: Console) -> dict[str, str]:
    """The progress in the frame drawn last, by the description of the bar."""
    lines = [re.search(r"(\S[^━╸╺]*\S)\s+[━╸╺ ]+\s+(\d+/\d+) +epochs", line) for line in printed(console)]
    drawn = [(line[1], line[2]) for line in lines if line]
    frame = max(index for index, (description, _) in enumerate(drawn) if description.endswith("runs"))  # the total
    return dict(drawn[frame:])


def write_epoch(folder: Path, epoch: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": epoch}) + "\n")


def test_continues_if_a_run_fails(stub_job, record, console, tmp_path):
    template = tmp_path / "template.json"
    record("none", mAP=0.7123).write(template)
    copy = f"import shutil; shutil.copy({str(template)!r}, {str(stub_job('none').record)!r})"
    succeeds = stub_job("none", copy)
    fails = stub_job("kd", "import sys; print('RuntimeError: broken'); sys.exit(3)")
    writes_no_record = stub_job("rkd")
    succeeds.record.parent.mkdir(parents=True)

    outcomes = run_all([succeeds, fails, writes_no_record], Processes(1), console)

    assert [outcome.job for outcome in outcomes] == [succeeds, fails, writes_no_record]
    assert [outcome.record for outcome in outcomes] == [record("none", mAP=0.7123), None, None]
    failures = [None, "exit status 3: RuntimeError: broken", "exit status 0: no output"]
    assert [outcome.failure for outcome in outcomes] == failures
    assert printed(console) == [
        "[1/3] none on glyphs, seed 0: mAP 71.2 %",
        f"[2/3] kd on glyphs, seed 0 FAILED: {failures[1]}",
        f"[3/3] rkd on glyphs, seed 0 FAILED: {failures[2]}",
    ]


def test_run_that_stops_early_has_not_failed(stub_job, console):
    job = stub_job("kd", "import sys; print('stopped by SIGUSR1'); sys.exit(75)")
    (outcome,) = run_all([job], Processes(1), console)
    assert (outcome.record, outcome.failure, outcome.stopped) == (None, "stopped by SIGUSR1", True)
    assert printed(console) == ["[1/1] kd on glyphs, seed 0 stopped: stopped by SIGUSR1"]


def test_killed_run_is_explained(stub_job, console):
    job = stub_job("kd", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    (outcome,) = run_all([job], Processes(1), console)
    assert outcome.failure == "killed by SIGKILL: as happens when memory runs out"


def test_error_of_the_executor_is_a_failure(stub_job, console):
    future = Future()
    future.set_exception(OSError("no worker"))
    executor = StubExecutor(future)
    (outcome,) = run_all([stub_job("kd")], executor, console)
    assert outcome.failure == "OSError: no worker"
    assert executor.is_closed


def test_cancelled_run_is_a_failure(stub_job, console):
    future = Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    (outcome,) = run_all([stub_job("kd")], StubExecutor(future), console)
    assert outcome.failure.startswith("CancelledError")


def test_interruption_closes_the_executor(stub_job, console, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(scheduler, "wait", interrupt)
    executor = StubExecutor(Future())
    with pytest.raises(KeyboardInterrupt):
        run_all([stub_job("kd")], executor, console)
    assert executor.is_closed


def test_record_of_a_run_that_failed_after_writing_it(stub_job, record, console):
    """The run is finished, with a warning; a record from before the run does not count."""
    job = stub_job("none")
    job.record.parent.mkdir(parents=True)
    record("none", mAP=0.7123).write(job.record)
    old = stub_job("none", "import sys; print('other data'); sys.exit(2)")
    new = stub_job("none", f"import os, sys; os.utime({str(job.record)!r}); print('disk full'); sys.exit(2)")
    (refused,), (finished,) = (run_all([each], Processes(1), console) for each in (old, new))
    assert (refused.record, refused.failure) == (None, "exit status 2: other data")
    assert (finished.record, finished.failure) == (record("none", mAP=0.7123), "exit status 2: disk full")
    assert printed(console)[-1].endswith("mAP 71.2 %; warning: exit status 2: disk full")


def test_removes_the_log_of_an_earlier_run(stub_job, console):
    job = stub_job("kd")
    job.log.parent.mkdir()
    job.log.write_text("RuntimeError: of an earlier run")
    (outcome,) = run_all([job], Processes(1), console)
    assert outcome.failure == "exit status 0: no output"


def test_display_counts_epochs_of_students_and_shared_teachers(stub_job, terminal):
    """Two students of 4 epochs with one teacher of 2 epochs, whose first epoch is from an earlier suite."""
    none, kd = stub_job("none"), stub_job("kd")
    write_epoch(none.teacher_records[0].parent, 1)
    none.log.parent.mkdir()
    with Display([none, kd], terminal) as display:
        display.update([])
        assert bars(terminal) == {"2 runs": "0/9"}
        none.log.touch()
        write_epoch(none.teacher_records[0].parent, 2)
        write_epoch(none.record.parent, 3)
        display.update([])
    assert bars(terminal) == {"2 runs": "4/9", "none on glyphs, seed 0": "3/4"}


def test_display_removes_the_bars_of_ended_runs(stub_job, terminal):
    jobs = [stub_job("none"), stub_job("kd")]
    jobs[0].log.parent.mkdir()
    for job in jobs:
        job.log.touch()
    with Display(jobs, terminal) as display:
        display.update([])
        display.update([jobs[0]])  # failed before its first epoch: its epochs count as done
        display.print("[red] is printed as it is")
    assert bars(terminal) == {"2 runs": "4/10", "kd on glyphs, seed 0": "0/4"}
    assert any("[red] is printed as it is" in line for line in printed(terminal))


def test_display_without_terminal_only_prints(stub_job, console):
    with Display([stub_job("none")], console) as display:
        display.update([])
        display.print("a line")
    assert printed(console) == ["a line"]
