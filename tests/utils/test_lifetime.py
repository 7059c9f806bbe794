"""Signals, streams and children of the command line's process, in processes that import no torch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PREAMBLE = """
import os, signal, sys, time
from benchmark import cli
from benchmark.__main__ import main
from benchmark.utils import lifetime

def command(function):
    "Replace the command line by a function; `main()` runs it."
    cli.app = function
"""
INTERRUPTED = "benchmark: interrupted\n"


def default_signals() -> None:
    """Undo what `nohup` or a shell's `&` has set for the tests."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


def python(code: str, **options: object) -> "subprocess.CompletedProcess[str]":
    options = {"capture_output": True, "text": True, "timeout": 60, "preexec_fn": default_signals} | options
    return subprocess.run([sys.executable, "-c", PREAMBLE + code], **options)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 75)])
def test_signal_ends_what_was_started(name, code):
    done = python(
        f"""
@command
def app():
    try:
        os.kill(os.getpid(), signal.{name})
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGINT)  # an impatient user does not break the cleanup
        time.sleep(0.05)
        print("cleaned up")
main()
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "cleaned up\n", INTERRUPTED)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("raise RuntimeError('of a library')", id="replaced by a library's error"),
        pytest.param("sys.exit(1)", id="replaced by an exit"),
        pytest.param("raise SystemExit from None", id="the exit of a success", marks=pytest.mark.xfail(strict=True)),
    ],
)
def test_error_after_a_signal_is_an_interruption(body):
    done = python(
        f"""
@command
def app():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
    {body}
main()
"""
    )
    assert (done.returncode, done.stderr) == (143, INTERRUPTED)


def test_signal_during_a_destructor_is_not_lost():
    done = python(
        """
class Loader:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

@command
def app():
    loader = Loader()
    del loader
    time.sleep(60)
main()
"""
    )
    assert (done.returncode, done.stderr) == (130, INTERRUPTED)


def test_ignored_signals_stay_ignored():
    """SIGHUP under nohup, and SIGINT of background jobs."""
    done = python(
        """
@command
def app():
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGINT)
    print("survived")
main()
""",
        preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)],
    )
    assert (done.returncode, done.stdout) == (0, "survived\n")


def test_forked_child_leaves_signals_to_its_parent():
    done = python(
        """
@command
def app():
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
main()
"""
    )
    assert (done.stdout, done.stderr) == ("143\n", "")


class TestSteps:
    """Within `finishing_steps`, SIGTERM and SIGUSR1 wait."""

    def run(self, body: str) -> "subprocess.CompletedProcess[str]":
        return python(
            f"""
@command
def app():
    with lifetime.finishing_steps():
        {body}
main()
"""
        )

    @pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGUSR1", 75)])
    def test_signal_is_noticed_after_the_step(self, name, code):
        stop = "raise lifetime.Stopped(75 if lifetime.received() == signal.SIGUSR1 else 143, 'stopped')"
        done = self.run(f"os.kill(os.getpid(), signal.{name}); time.sleep(0.05); print('step complete'); {stop}")
        assert (done.returncode, done.stdout, done.stderr) == (code, "step complete\n", "benchmark: stopped\n")

    def test_another_process_prints(self):
        done = self.run("raise lifetime.Stopped(75, '')")
        assert (done.returncode, done.stderr) == (75, "")

    def test_signal_that_the_block_has_not_noticed(self):
        done = self.run("os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.05); print('end of the block')")
        assert (done.returncode, done.stdout, done.stderr) == (143, "end of the block\n", INTERRUPTED)

    @pytest.mark.parametrize(
        "names", [("SIGINT",), ("SIGTERM", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGUSR1", "SIGTERM")]
    )
    def test_interruption_within_the_step(self, names):
        kills = "; ".join(f"os.kill(os.getpid(), signal.{name}); time.sleep(0.05)" for name in names)
        done = self.run(f"lifetime._REPEATED = 0.01; {kills}; print('not reached')")
        assert (done.stdout, done.stderr) == ("", INTERRUPTED)

    def test_scheduler_and_suite_signal_the_same_run(self):
        kills = "; ".join(f"os.kill(os.getpid(), signal.{name}); time.sleep(0.05)" for name in ("SIGUSR1", "SIGTERM"))
        done = self.run(f"{kills}; print('step complete')")
        assert (done.returncode, done.stdout, done.stderr) == (75, "step complete\n", INTERRUPTED)


def test_worker_survives_the_end_of_the_step():
    """A scheduler sends SIGTERM to all processes of a run. A worker loads the images of the step nevertheless."""
    done = python(
        """
lifetime._WORKER_GRACE = 1

@command
def app():
    child = os.fork()
    if not child:
        lifetime.start_worker()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        print("step complete", flush=True)
        time.sleep(60)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM)
main()
"""
    )
    assert done.stdout == "step complete\nTrue\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_child_ends_with_a_killed_parent(tmp_path: Path):
    child = "import time; from benchmark import __main__, cli; cli.app = lambda: time.sleep(60)"
    parent = f"""
import subprocess, signal
command = [sys.executable, "-c", "{child}; __main__.main()"]
subprocess.Popen(command, stderr=open("{tmp_path / "log"}", "w"), start_new_session=True,
                 env=os.environ | {{lifetime.PARENT: str(os.getpid())}})
time.sleep(float(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""
    for delay in ("0", "1.0"):  # before and after the child has started
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", PREAMBLE + parent, delay], timeout=60)
        while (tmp_path / "log").read_text() != INTERRUPTED:
            assert time.monotonic() < started + 20
            time.sleep(0.02)


class TestStreams:
    def run(self, shell: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        benchmark = f"{sys.executable} -m benchmark"
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", shell.replace("benchmark", benchmark)],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | environment,
        )

    def test_reader_that_ends_early(self):
        done = self.run("benchmark --help | head -0")
        assert (done.returncode, done.stderr) == (141, "")

    def test_closed_streams(self, tmp_path):
        assert self.run("benchmark --help >&- 2>&- <&-").returncode == 0
        assert self.run("benchmark list methodz 2>&-").returncode == 2

    def test_full_disk(self):
        done = self.run("benchmark --version > /dev/full")
        assert done.returncode == 2
        assert "no space left" in done.stderr.lower() and len(done.stderr.splitlines()) == 1

    def test_characters_that_the_encoding_lacks(self):
        done = self.run("benchmark --help", PYTHONIOENCODING="ascii:strict")
        assert done.returncode == 0 and done.stdout.isascii() and done.stderr == ""
