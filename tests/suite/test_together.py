"""Several processes that share one command of the command line."""

import signal
import subprocess
import sys

import pytest

from benchmark.suite import together


@pytest.fixture
def start(monkeypatch):
    """`start(CODE)`: the exit status of two processes that execute the code instead of a command."""

    def run(code: str) -> int:
        begin = together.start_process
        replaced = lambda command, output, variables: begin([sys.executable, "-c", code], output, variables)  # noqa: E731
        monkeypatch.setattr(together, "start_process", replaced)
        return together.together(2, ["run"])

    return run


def test_processes_know_each_other(start, tmp_path):
    names = "('WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'MASTER_ADDR')"
    code = f"import os; open(r'{tmp_path}/' + os.environ['RANK'], 'w').write(' '.join(os.environ[n] for n in {names}))"
    assert start(code) == 0
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["2 2 0 0 127.0.0.1", "2 2 1 1 127.0.0.1"]


def test_exit_status_is_of_the_process_that_failed_and_others_are_stopped(start, monkeypatch):
    monkeypatch.setattr(together, "_GRACE", 0.1)
    assert start("import os, sys, time; sys.exit(3) if os.environ['RANK'] == '1' else time.sleep(60)") == 3


@pytest.mark.slow
def test_interruption_stops_all_processes():
    """SIGTERM, as the suite sends it, ends the processes too: they hold the other end of the pipe."""
    command = [sys.executable, "-m", "benchmark.suite.together", "2", "run", "--help"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
